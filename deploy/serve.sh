#!/bin/sh
# Start Triton with production flags; further arguments are appended.
#
#   LWC_REPOSITORY   the model repository, /models by default
#   LWC_MODEL_CONTROL   explicit: a client with LWC_ADMIN_KEY loads models while the server runs, as `lwc deploy --url` does;
#                    none, the default: the server keeps the models of its start
#   LWC_ADMIN_KEY    opens the restricted interfaces to a client that sends it as the header x-lwc-key
#                    (triton-grpc-protocol-x-lwc-key over gRPC); a random one, known to nobody, where it is not set
#   LWC_HTTP_PORT, LWC_GRPC_PORT, LWC_METRICS_PORT   8000, 8001 and 8002 by default
#   LWC_CACHE_BYTES  of the response cache, where a model asks for one (package.response_cache); 64 MiB by default
set -eu

key=${LWC_ADMIN_KEY:-$(cat /proc/sys/kernel/random/uuid)}
repository=${LWC_REPOSITORY:-/models}
# A model's response_cache needs a cache in the server too.
if grep -qs '^response_cache' "$repository"/*/config.pbtxt; then
  set -- --cache-config="local,size=${LWC_CACHE_BYTES:-67108864}" "$@"
fi
case "${LWC_MODEL_CONTROL:-none}" in
  none) set -- --model-control-mode=none --strict-readiness=true "$@" ;;
  # Strict readiness would take the server out of service while a new version loads.
  explicit)
    : "${LWC_ADMIN_KEY:?LWC_MODEL_CONTROL=explicit needs a key that 'lwc deploy' also knows}"
    set -- --model-control-mode=explicit '--load-model=*' --strict-readiness=false "$@"
    ;;
  *) echo "LWC_MODEL_CONTROL is '$LWC_MODEL_CONTROL'; use none or explicit" >&2 && exit 2 ;;
esac
# What a client that only asks for answers never needs.
restricted="shared-memory,model-config,model-repository,statistics,trace,logging:x-lwc-key=$key"

exec tritonserver \
  --model-repository="$repository" \
  --disable-auto-complete-config \
  --exit-on-error=true \
  --exit-timeout-secs=30 \
  --http-port="${LWC_HTTP_PORT:-8000}" \
  --grpc-port="${LWC_GRPC_PORT:-8001}" \
  --metrics-port="${LWC_METRICS_PORT:-8002}" \
  --metrics-config=counter_latencies=true \
  --metrics-config=summary_latencies=true \
  --http-restricted-api="$restricted" \
  --grpc-restricted-protocol="$restricted" \
  "$@"
