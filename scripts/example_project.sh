#!/usr/bin/env bash
# The example project, built and run in a clean virtual environment, as its README tells a user to.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/docs/examples/own_dagster_project" "$work/project"
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" \
  "$root" "$work/project[dev]"
mkdir "$work/dagster"
echo 'telemetry: {enabled: false}' > "$work/dagster/dagster.yaml"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH DAGSTER_HOME=$work/dagster
export BATCH_PIPELINE_HOME=$work/home
cd "$work/project"
dg check yaml
dg list defs | grep --quiet notice_periods
python -m pytest -q -p no:cacheprovider
