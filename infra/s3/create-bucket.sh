#!/bin/sh
# Creates the store's bucket; an existing one is left as it is.
set -eu
# SeaweedFS's shell ends with 0 whatever becomes of a command: what it lists decides.
ask() { echo "$1" | timeout 30 weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888 2>&1; }
tries=30
until said=$(ask s3.bucket.list); echo "$said" | grep -q "^  $S3_BUCKET[[:space:]]"; do
  tries=$((tries - 1))
  if [ "$tries" -eq 0 ]; then echo "$said" >&2; exit 1; fi
  case $said in *error*) ;; *) ask "s3.bucket.create -name $S3_BUCKET" ;; esac
  sleep 1
done
