# Airflow with boig's DAGs and operator: no torch, no ray. Build from the repository's root; EXTRA=kuberay for jobs on KubeRay.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ENV PYTHONUNBUFFERED=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_SYSTEM_PYTHON=1 AIRFLOW_HOME=/opt/airflow
COPY infra/tools/uv.lock /tmp/uv.lock
RUN pip install --no-cache-dir --require-hashes -r /tmp/uv.lock && useradd --uid 50000 --gid 0 --create-home airflow \
    && install -d -o airflow -g 0 -m 0775 /opt/airflow /opt/airflow/logs /opt/airflow/secrets
WORKDIR /opt/boig

# Packages first: they change less often than the code. The constraints pin what the extras ask for, and hold it to their hashes.
ARG EXTRA
COPY pyproject.toml requirements.lock ./
RUN uv pip install -c requirements.lock -b requirements.lock -r pyproject.toml --extra airflow --extra postgres ${EXTRA:+--extra $EXTRA}
COPY README.md ./
COPY boig_core boig_core
COPY dags dags
RUN uv pip install --no-deps -b requirements.lock -e . && rm -rf boig.egg-info

USER airflow
EXPOSE 8080
