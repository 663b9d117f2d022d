#!/bin/sh
# Take out of PyArrow what nothing of ours touches: `trim.sh FOLDER`. It is what others build against it with, libraries
# for servers that we don't speak to (S3 goes through fsspec), and a library's second and third copy, which are what
# links become in a wheel.
set -eu
cd "$1"
rm -rf include src
find . -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' | xargs rm -f
rm -f libarrow_flight.* libarrow_python_flight.* _flight.* libarrow_s3.* _s3fs.*
for copy in libarrow_python*.so.*.*.*; do
  loaded=${copy%.*.*} # what is asked for has the first number alone
  test -e "$loaded"
  rm -f "$copy" "${loaded%.*}"
done
