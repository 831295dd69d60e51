#!/bin/sh
# Creates the store's bucket once the server is up; an existing one is left as it is.
set -eu
tries=60
until echo "s3.bucket.list" | weed shell -master=s3:9333 > /tmp/buckets 2>/tmp/error; do
  tries=$((tries - 1))
  if [ "$tries" -eq 0 ]; then cat /tmp/error >&2; exit 1; fi
  sleep 1
done
grep -qw "$S3_BUCKET" /tmp/buckets || echo "s3.bucket.create -name $S3_BUCKET" | weed shell -master=s3:9333
