#!/bin/sh
# Deploys infra/template.yaml to a local AWS, through CloudFormation, without its ECS part.
#
#   deploy.sh ENDPOINT STACK FUNCTIONS [PARAMETER=VALUE...]
#
# FUNCTIONS is the folder with the output of `cargo lambda build`: FUNCTIONS/<name>/bootstrap. The
# script prints the stack's outputs as JSON to standard output. If the stack exists, the script updates
# it. It needs a python3 with boto3; the installation of MiniStack has one.
set -eu
[ $# -ge 3 ] || { echo "usage: deploy.sh ENDPOINT STACK FUNCTIONS [PARAMETER=VALUE...]" >&2; exit 64; }
template=$(dirname "$0")/../template.yaml
export AWS_ACCESS_KEY_ID="${AWS_ACCESS_KEY_ID:-test}" AWS_SECRET_ACCESS_KEY="${AWS_SECRET_ACCESS_KEY:-test}"
export AWS_EC2_METADATA_DISABLED=true
exec python3 - "$template" "$@" <<'PYTHON'
import hashlib, io, json, os, platform, re, stat, sys, time, zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# Print errors in one line, without a stack trace of this script.
sys.excepthook = lambda kind, error, trace: print(f"deploy.sh: {error}", file=sys.stderr)

template, endpoint, stack, functions, *more = sys.argv[1:]
endpoint = endpoint.rstrip("/")
region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
parameters = {
    "Architecture": "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64",
    "AllowPrivateAddresses": "true",
    "DeletionProtection": "false",
    "RunnerOnEcs": "false",
}
for one in more:
    name, equals, value = one.partition("=")
    if not equals:
        sys.exit(f"deploy.sh: {one} is not of the form PARAMETER=VALUE")
    parameters[name] = value


def client(service, **config):
    return boto3.client(service, endpoint_url=endpoint, region_name=region, config=Config(**config))


def packed(name):
    """The function's zip. The same program gives the same bytes, so that an update finds no change."""
    path = os.path.join(functions, name, "bootstrap")
    try:
        with open(path, "rb") as file:
            program = file.read()
    except OSError as error:
        sys.exit(f"deploy.sh: cannot read {path}: {error.strerror}; run cargo lambda build first")
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    entry.external_attr = (stat.S_IFREG | 0o755) << 16
    # Prefer speed to size, because the file stays on this machine.
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(entry, program, zipfile.ZIP_DEFLATED, compresslevel=1)
    return out.getvalue()


s3 = client("s3", s3={"addressing_style": "path"})
# The names of buckets are unique across all accounts.
bucket = f"{stack}-{client('sts').get_caller_identity()['Account']}-deploy".lower()
try:
    s3.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else
                     {"CreateBucketConfiguration": {"LocationConstraint": region}}))
except ClientError as error:
    if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        raise


def upload(name, body, ending):
    key = f"{name}-{hashlib.sha256(body).hexdigest()[:16]}.{ending}"
    s3.put_object(Bucket=bucket, Key=key, Body=body)
    return key


def code(found):
    name = found.group(1)
    return f"CodeUri: s3://{bucket}/{upload(name, packed(name), 'zip')}"


with open(template, encoding="utf-8") as file:
    text = re.sub(r"CodeUri: \.\./target/lambda/(\w+)/", code, file.read())
url = f"{endpoint}/{bucket}/{upload('template', text.encode(), 'yaml')}"

cloudformation = client("cloudformation")
order = {
    "StackName": stack,
    # The template is too long to be sent in the request.
    "TemplateURL": url,
    "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
}


def stack_now():
    """The stack, when no operation on it is in progress. None if it does not exist."""
    deadline = time.monotonic() + 300
    while True:
        try:
            found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise
        if not found["StackStatus"].endswith("_IN_PROGRESS"):
            return found
        if time.monotonic() > deadline:
            sys.exit(f"deploy.sh: the stack is {found['StackStatus']} after 5 minutes")
        time.sleep(0.1)


found = stack_now()
if found and found["StackStatus"] == "ROLLBACK_COMPLETE":
    # CloudFormation cannot update a stack that was never created completely.
    cloudformation.delete_stack(StackName=stack)
    found = stack_now()
if found is None or found["StackStatus"] == "DELETE_COMPLETE":
    cloudformation.create_stack(**order)
else:
    try:
        cloudformation.update_stack(**order)
    except ClientError as error:
        if "No updates" not in error.response["Error"]["Message"]:
            raise
found = stack_now()
state = found["StackStatus"] if found else "gone"
if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
    events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
    for event in events:
        if "FAILED" in event["ResourceStatus"]:
            print(event["LogicalResourceId"], event.get("ResourceStatusReason", ""), file=sys.stderr)
    sys.exit(f"deploy.sh: the stack is {state}")
outputs = {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}
# Not every machine resolves names below localhost. Local gateways also serve this path.
outputs["ApiUrl"] = f"{endpoint}/_aws/execute-api/{outputs['ApiId']}"
print(json.dumps(outputs, indent=2))
PYTHON
