#!/usr/bin/env bash
# Makes a virtual environment that holds batch-pipeline in the versions of constraints.txt.
#
#   deploy/install.sh VENV [EXTRAS]    EXTRAS as pip takes them: postgres,s3
#
# The image is built by this, and so is the path of docs/deploy.md that needs no containers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${1:?usage: deploy/install.sh VENV [EXTRAS]}
extras=${2-postgres,s3,gcs,k8s,celery,aws}
"${PYTHON:-python3.11}" -m venv "$venv"
venv=$(cd "$venv" && pwd)
# setuptools builds in `build`, and would take what lies there from before.
rm -rf "$root/build"
trap 'rm -rf "$root/build"' EXIT
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
  --constraint "$root/constraints.txt" "$root${extras:+[$extras]}"
"$venv/bin/python" -m compileall -q "$venv/lib"
