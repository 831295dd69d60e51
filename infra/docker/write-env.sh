#!/bin/sh
# Prints the .env of the compose stack with freshly drawn secrets; `make up` writes it once. Nothing of it is ever committed.
set -eu
umask 077
secret() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
cat <<END
POSTGRES_PASSWORD=$(secret 16)
AIRFLOW_FERNET_KEY=$(fernet)
AIRFLOW_JWT_SECRET=$(secret 32)
AIRFLOW_ADMIN_PASSWORD=$(secret 12)
AIRFLOW_APPROVER_PASSWORD=$(secret 12)
RAY_AUTH_TOKEN=$(secret 32)
MLFLOW_ADMIN_PASSWORD=$(secret 16)
MLFLOW_AIRFLOW_PASSWORD=$(secret 24)
MLFLOW_RAY_PASSWORD=$(secret 24)
MLFLOW_FORM_SECRET=$(secret 32)
S3_ACCESS_KEY=person$(secret 6)
S3_SECRET_KEY=$(secret 24)
S3_AIRFLOW_ACCESS_KEY=airflow$(secret 6)
S3_AIRFLOW_SECRET_KEY=$(secret 24)
S3_RAY_ACCESS_KEY=ray$(secret 8)
S3_RAY_SECRET_KEY=$(secret 24)
S3_WEB_ACCESS_KEY=web$(secret 8)
S3_WEB_SECRET_KEY=$(secret 24)
S3_BUCKET=boig
END
