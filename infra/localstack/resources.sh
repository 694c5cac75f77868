#!/bin/sh
# Creates the table and the queues of infra/template.yaml in LocalStack.
set -eu
awslocal dynamodb create-table --table-name rdev --billing-mode PAY_PER_REQUEST \
    --attribute-definitions \
        AttributeName=pk,AttributeType=S AttributeName=sk,AttributeType=S \
        AttributeName=lpk,AttributeType=S AttributeName=lsk,AttributeType=S \
        AttributeName=dpk,AttributeType=S AttributeName=dsk,AttributeType=S \
    --key-schema AttributeName=pk,KeyType=HASH AttributeName=sk,KeyType=RANGE \
    --global-secondary-indexes '[
        {"IndexName": "lists",
         "KeySchema": [{"AttributeName": "lpk", "KeyType": "HASH"}, {"AttributeName": "lsk", "KeyType": "RANGE"}],
         "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["state", "kind"]}},
        {"IndexName": "due",
         "KeySchema": [{"AttributeName": "dpk", "KeyType": "HASH"}, {"AttributeName": "dsk", "KeyType": "RANGE"}],
         "Projection": {"ProjectionType": "KEYS_ONLY"}}]' >/dev/null
awslocal dynamodb update-time-to-live --table-name rdev \
    --time-to-live-specification Enabled=true,AttributeName=expires_at >/dev/null
awslocal sqs create-queue --queue-name rdev-dead-letters \
    --attributes VisibilityTimeout=180,MessageRetentionPeriod=1209600 >/dev/null
dead=$(awslocal sqs get-queue-url --queue-name rdev-dead-letters --query QueueUrl --output text)
arn=$(awslocal sqs get-queue-attributes --queue-url "$dead" --attribute-names QueueArn \
    --query Attributes.QueueArn --output text)
awslocal sqs create-queue --queue-name rdev-wake-ups --attributes "{
    \"VisibilityTimeout\": \"60\", \"MessageRetentionPeriod\": \"345600\",
    \"ReceiveMessageWaitTimeSeconds\": \"20\",
    \"RedrivePolicy\": \"{\\\"deadLetterTargetArn\\\": \\\"$arn\\\", \\\"maxReceiveCount\\\": \\\"10\\\"}\"}" >/dev/null
echo "rdev: created the table rdev and the queues rdev-wake-ups and rdev-dead-letters"
