# MLflow's server with its login, which MLflow's own image leaves out. Build from the repository's root.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ENV PYTHONUNBUFFERED=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_SYSTEM_PYTHON=1
COPY infra/tools/uv.lock /tmp/uv.lock
RUN pip install --no-cache-dir --require-hashes -r /tmp/uv.lock && useradd --uid 1000 --create-home mlflow \
    && install -d -o mlflow /mlflow
WORKDIR /opt/boig

# The constraints pin what MLflow asks for, and hold it to their hashes.
COPY requirements.lock ./
RUN uv pip install -c requirements.lock -b requirements.lock 'mlflow[auth]'

USER mlflow
EXPOSE 5000
