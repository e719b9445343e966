# Tokenhub's image: everything it writes is below /data; the rest may be read-only.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/venv
COPY requirements.txt /build/
RUN /opt/venv/bin/pip install --require-hashes -r /build/requirements.txt

FROM python:3.13-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tokenhub \
    && install -d -o tokenhub -g tokenhub -m 0700 /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY manage.py ./
COPY tokenhub ./tokenhub
COPY gateway ./gateway
COPY orchestration ./orchestration
COPY access ./access
COPY console ./console
COPY providers ./providers
COPY routing ./routing
COPY signin ./signin
COPY snapshots ./snapshots
COPY usage ./usage
COPY vault ./vault
COPY static ./static
COPY templates ./templates
COPY config ./config
RUN python -m compileall -q . \
    && TOKENHUB_DATA_DIR=/tmp/build TOKENHUB_STATIC_ROOT=/app/static-built python manage.py collectstatic --no-input \
    && rm -rf /tmp/build
# A container's network is its own: nothing reaches this address but what is published or routed to it.
ENV TOKENHUB_HOST=0.0.0.0 TOKENHUB_PORT=8080 TOKENHUB_DATA_DIR=/data TOKENHUB_STATIC_ROOT=/app/static-built
USER 10001:10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "manage.py", "healthcheck"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve", "--bootstrap"]
