#!/usr/bin/env bash
# Builds and runs the example project in a clean virtual environment, as its README tells a user to.
#
#   scripts/example_project.sh [VENV]    VENV is made, and holds batch-pipeline and what the example
#                                        declares afterwards; without it, a temporary one is used
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
# setuptools builds in `build`, and would take what lies there from before.
rm -rf "$root/build"
trap 'rm -rf "$work" "$root/build"' EXIT
venv=${1:-$work/venv}
if [ -e "$venv" ]; then
  echo "$venv exists: an environment that is not new may hide a missing dependency" >&2
  exit 2
fi
"${PYTHON:-python3.11}" -m venv "$venv"
venv=$(cd "$venv" && pwd)
# The pip that comes with Python 3.11 takes twice as long; where no newer one can be had, it does.
"$venv/bin/pip" install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" --upgrade pip || true
cp -r "$root/docs/examples/own_dagster_project" "$work/project"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --constraint "$root/constraints.txt" \
  "$root" --editable "$work/project[dev]"
# On all cores, which pip does not.
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib"
mkdir "$work/dagster"
echo 'telemetry: {enabled: false}' > "$work/dagster/dagster.yaml"
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH DAGSTER_HOME=$work/dagster
export BATCH_PIPELINE_HOME=$work/home WAREHOUSE=$work/warehouse.duckdb
cd "$work/project"
dg check defs
python -m pytest -q -p no:cacheprovider
pip uninstall --quiet --yes own-project
