#!/bin/sh
# Starts SeaweedFS as one S3 server with a user per role. Keys come from the environment, so that none stands in a committed file.
set -eu
umask 077
config=${TMPDIR:-/tmp}/s3.json

identity() { # NAME ACCESS_KEY SECRET_KEY ACTION…
  : "${2:?is empty: run make up, which writes .env}" "${3:?is empty: run make up, which writes .env}"
  printf '%s{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Read:%s", "List:%s"' \
    "$comma" "$1" "$2" "$3" "$S3_BUCKET" "$S3_BUCKET"
  shift 3
  for action; do printf ', "%s"' "$action"; done
  printf ']}\n'
  comma=,
}

# Whoever starts runs also cleans the whole store; a stage writes its outputs, and of a run its own attempts alone; a person brings posts.
comma=
{
  printf '{"identities": [\n'
  identity airflow "$S3_AIRFLOW_ACCESS_KEY" "$S3_AIRFLOW_SECRET_KEY" "Write:$S3_BUCKET"
  identity ray "$S3_RAY_ACCESS_KEY" "$S3_RAY_SECRET_KEY" "Write:$S3_BUCKET/datasets/*" "Write:$S3_BUCKET/perception/*" \
    "Write:$S3_BUCKET/rewards/*" "Write:$S3_BUCKET/models/*" "Write:$S3_BUCKET/evaluations/*" "Write:$S3_BUCKET/reports/*" \
    "Write:$S3_BUCKET/runs/*/attempt-*"
  identity web "$S3_WEB_ACCESS_KEY" "$S3_WEB_SECRET_KEY"
  identity person "$S3_ACCESS_KEY" "$S3_SECRET_KEY" "Write:$S3_BUCKET/posts/*"
  printf ']}\n'
} > "$config"

# Master, volumes and filer ask nobody for a key, so they answer within this container alone; the S3 port alone is for others.
exec weed server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.volumeSizeLimitMB=1024 -master.telemetry=false -volume.max=0 \
  -filer -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 -s3.iam=false -s3.config="$config"
