# lwc itself: trains, compresses, exports, and verifies with the embedded Triton server.
# Serving in production uses the official Triton image with the repository that lwc wrote: see README.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lwc lwc
# The CPU build of torch; for a GPU build leave the index out.
RUN python -m venv /opt/lwc \
 && /opt/lwc/bin/pip install --no-cache-dir 'torch<2.14' --index-url https://download.pytorch.org/whl/cpu \
 && /opt/lwc/bin/pip install --no-cache-dir '.[serve,sample]'

FROM python:3.11-slim-bookworm
RUN useradd --uid 1000 --create-home lwc
COPY --from=build /opt/lwc /opt/lwc
COPY --chown=lwc recipes /work/recipes
RUN chown lwc /work
USER lwc
WORKDIR /work
ENV PATH=/opt/lwc/bin:$PATH PYTHONUNBUFFERED=1
HEALTHCHECK --interval=60s --timeout=20s CMD ["lwc", "--version"]
ENTRYPOINT ["lwc"]
CMD ["run", "recipes/amazon_2.5x.yaml"]
