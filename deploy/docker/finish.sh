#!/bin/sh
# The last step of each environment: our wheel, and nothing that only building or testing needs.
set -eu
pip install --no-deps /wheels/*.whl
find /app/lib -type d -name tests -prune -exec rm -rf {} +
# Of PyArrow: what to build against it with, libraries for services that nothing of ours speaks to (S3 goes through
# fsspec), and the second and third copy of a library, which are links where a wheel can hold them.
cd /app/lib/python3*/site-packages/pyarrow
rm -rf include src
find . -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' | xargs rm
rm -f libarrow_flight.* libarrow_python_flight.* _flight.* libarrow_substrait.* _substrait.* libarrow_s3.* _s3fs.*
for real in libarrow_python*.so.*.*.*; do
  name=${real%.*.*} # what is asked for has the first number alone
  rm -f "$real" "${name%.*}"
done
pip uninstall --yes wheel pip
