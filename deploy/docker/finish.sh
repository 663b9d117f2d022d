#!/bin/sh
# The last step of each environment: our wheel, and nothing that only building or testing needs.
set -eu
pip install --no-deps /wheels/*.whl
find /app/lib -type d -name tests -prune -exec rm -rf {} +
sh /wheels/trim.sh /app/lib/python3*/site-packages/pyarrow
pip uninstall --yes wheel pip
