#!/bin/sh
# One-off set-up of Airflow's database, its two users and the pool that limits how many stages use the cluster at once.
set -eu
umask 077
printf '{"admin": "%s", "approver": "%s"}' "$AIRFLOW_ADMIN_PASSWORD" "$AIRFLOW_APPROVER_PASSWORD" \
  > "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
airflow db migrate
airflow pools set boig_cluster "${BOIG_CLUSTER_SLOTS:-1}" "Stages that use the Ray cluster at once" --include-deferred
