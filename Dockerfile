# One image for every machine of a cluster: the package in a virtual environment of its own.
FROM python:3.13-slim-bookworm

ENV PATH=/opt/logos/bin:$PATH PYTHONUNBUFFERED=1
# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/logos
COPY pyproject.toml README.md LICENSE CHANGELOG.md constraints.txt ./
COPY logos logos
COPY deployments deployments
RUN python -m venv /opt/logos && pip install --no-cache-dir --constraint constraints.txt .

# How HAProxy is started (docs/design.md); its path is one of the settings that a cluster must have.
RUN python -c "from pathlib import Path; from deployments.haproxy import write_haproxy_wrapper; \
d = Path('/opt/logos/haproxy'); d.mkdir(); write_haproxy_wrapper(d)" && chmod -R a+rX /opt/logos/haproxy

EXPOSE 8080
CMD ["logos", "up", "--host", "0.0.0.0", "--port", "8080", "--data-dir", "/var/lib/logos"]
