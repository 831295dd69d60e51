#!/bin/sh
# Starts SeaweedFS as one S3 server. Its identity comes from the environment, so that no key stands in a committed file.
set -eu
: "${S3_ACCESS_KEY:?is empty: run make up, which writes .env}" "${S3_SECRET_KEY:?is empty: run make up, which writes .env}"
umask 077
cat > /tmp/s3.json <<END
{"identities": [{"name": "boig", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
  "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}
END
exec weed server -dir=/data -ip=s3 -ip.bind=0.0.0.0 -master.volumeSizeLimitMB=1024 -master.telemetry=false -volume.max=0 \
  -filer -s3 -s3.port=8333 -s3.config=/tmp/s3.json
