//! The check of table and queues at the start.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use rdev_aws::check::{self, CheckError, Resource};
use rdev_aws::{Aws, Settings, SqsQueue, schema};
use rdev_domain::ports::{PortError, Queue};
use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_testkit::servers::emulator::{Account, Emulator};
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule, Service};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Outcome;

use crate::scene::{account, queues, sdk};

rdev_testkit::trials! {
    async table_and_queues_of_the_template_pass_the_check;
    async a_missing_resource_is_named;
    async a_table_with_other_keys_or_without_an_index_is_refused;
    async an_index_without_the_attributes_that_lists_are_filtered_by_is_refused;
    async a_fifo_queue_is_refused;
    async a_denied_resource_is_named_with_its_permission_and_called_once;
    async without_region_or_credentials_no_call_is_made;
    async an_unknown_key_is_denied_where_signatures_are_checked;
}

const TABLE: &str = "rdev";

async fn look(sdk: &SdkConfig, settings: &Settings) -> Result<(), CheckError> {
    check::resources(&Aws::new(sdk, settings, Retention::default())).await
}

fn keys(hash: &str, range: &str) -> [KeySchemaElement; 2] {
    [(hash, KeyType::Hash), (range, KeyType::Range)].map(|(name, kind)| {
        let key = KeySchemaElement::builder().attribute_name(name).key_type(kind);
        key.build().expect("a key")
    })
}

/// A table with these keys and these indexes.
async fn create(sdk: &SdkConfig, main: (&str, &str), indexes: &[(&str, (&str, &str))]) {
    create_with(sdk, main, indexes, ProjectionType::Include).await;
}

/// `lists`: the projection of the index of that name.
async fn create_with(
    sdk: &SdkConfig,
    main: (&str, &str),
    indexes: &[(&str, (&str, &str))],
    lists: ProjectionType,
) {
    let all = indexes.iter().map(|(_, keys)| *keys).chain([main]);
    let names: BTreeSet<&str> = all.flat_map(|(hash, range)| [hash, range]).collect();
    let attributes = names.into_iter().map(|name| {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attribute.attribute_type(ScalarAttributeType::S).build().expect("an attribute")
    });
    let indexes = indexes.iter().map(|(name, (hash, range))| {
        let projection = match *name {
            "lists" if lists == ProjectionType::Include => Projection::builder()
                .projection_type(ProjectionType::Include)
                .set_non_key_attributes(Some(schema::LISTED.map(str::to_owned).to_vec())),
            _ => Projection::builder().projection_type(ProjectionType::KeysOnly),
        };
        GlobalSecondaryIndex::builder()
            .index_name(*name)
            .set_key_schema(Some(keys(hash, range).to_vec()))
            .projection(projection.build())
            .build()
            .expect("an index")
    });
    let indexes: Vec<GlobalSecondaryIndex> = indexes.collect();
    aws_sdk_dynamodb::Client::new(sdk)
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(attributes.collect()))
        .set_key_schema(Some(keys(main.0, main.1).to_vec()))
        .set_global_secondary_indexes((!indexes.is_empty()).then_some(indexes))
        .send()
        .await
        .expect("a table");
}

/// An account with queues and no table.
async fn scene() -> Result<(Account, SdkConfig, Settings), NotRun> {
    let account = account()?;
    let sdk = sdk(&account).await;
    let settings = queues(&aws_sdk_sqs::Client::new(&sdk), 60, 10).await;
    Ok((account, sdk, settings))
}

const OURS: [(&str, (&str, &str)); 2] = [("lists", ("lpk", "lsk")), ("due", ("dpk", "dsk"))];

async fn table_and_queues_of_the_template_pass_the_check() -> Outcome {
    let (_, sdk, settings) = scene().await?;
    create(&sdk, ("pk", "sk"), &OURS).await;
    assert_eq!(look(&sdk, &settings).await, Ok(()));
    let settings = Settings { dead_queue_url: None, ..settings };
    assert_eq!(look(&sdk, &settings).await, Ok(()));
    Ok(())
}

async fn a_missing_resource_is_named() -> Outcome {
    let (account, sdk, settings) = scene().await?;
    let table = CheckError::Missing(Resource::Table(TABLE.to_owned()));
    assert_eq!(look(&sdk, &settings).await, Err(table));
    create(&sdk, ("pk", "sk"), &OURS).await;
    let none = format!("{}/{}/none", account.endpoint, account.id);
    let missing = Err(CheckError::Missing(Resource::Queue(none.clone())));
    let queue = Settings { queue_url: none.clone(), ..settings.clone() };
    assert_eq!(look(&sdk, &queue).await, missing);
    let agent_queue_urls = [(AgentName::ClaudeCode, none.clone())].into();
    let own = Settings { agent_queue_urls, ..settings.clone() };
    assert_eq!(look(&sdk, &own).await, missing);
    let dead = Settings { dead_queue_url: Some(none), ..settings };
    let error = look(&sdk, &dead).await;
    assert_eq!(error, missing);
    assert!(!error.expect_err("missing").is_transient());
    Ok(())
}

async fn a_table_with_other_keys_or_without_an_index_is_refused() -> Outcome {
    let cases = [
        (("id", "sk"), &OURS[..], "the HASH key is \"id\", not \"pk\""),
        (("pk", "at"), &OURS[..], "the RANGE key is \"at\", not \"sk\""),
        (("pk", "sk"), &OURS[..1], "it has no index due"),
        (
            ("pk", "sk"),
            &[OURS[0], ("due", ("dpk", "sk"))][..],
            "in its index due, the RANGE key is \"sk\", not \"dsk\"",
        ),
    ];
    for (main, indexes, expected) in cases {
        let (_, sdk, settings) = scene().await?;
        create(&sdk, main, indexes).await;
        match look(&sdk, &settings).await {
            Err(CheckError::WrongShape { resource: Resource::Table(_), why }) => {
                assert_eq!(why, expected);
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    Ok(())
}

async fn an_index_without_the_attributes_that_lists_are_filtered_by_is_refused() -> Outcome {
    let (_, sdk, settings) = scene().await?;
    let client = aws_sdk_dynamodb::Client::new(&sdk);
    schema::create_table(&client, TABLE).await.expect("a table");
    assert_eq!(look(&sdk, &settings).await, Ok(()));
    client.delete_table().table_name(TABLE).send().await.expect("it goes");
    create_with(&sdk, ("pk", "sk"), &OURS, ProjectionType::KeysOnly).await;
    match look(&sdk, &settings).await {
        Err(CheckError::WrongShape { why, .. }) => {
            assert_eq!(why, "in its index lists, the attribute \"state\" is not projected");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

async fn a_fifo_queue_is_refused() -> Outcome {
    let (_, sdk, settings) = scene().await?;
    create(&sdk, ("pk", "sk"), &OURS).await;
    let fifo = aws_sdk_sqs::Client::new(&sdk).create_queue().queue_name("rdev.fifo");
    let fifo = fifo.attributes(aws_sdk_sqs::types::QueueAttributeName::FifoQueue, "true");
    let queue_url = fifo.send().await.expect("a queue").queue_url.expect("its URL");
    let error = look(&sdk, &Settings { queue_url, ..settings }).await.expect_err("none of ours");
    assert!(error.to_string().contains("FIFO"), "{error}");
    Ok(())
}

async fn a_denied_resource_is_named_with_its_permission_and_called_once() -> Outcome {
    let (account, direct, settings) = scene().await?;
    create(&direct, ("pk", "sk"), &OURS).await;
    let proxy = Proxy::start(&account.endpoint, 1);
    let sdk = sdk(&account.at(proxy.endpoint())).await;
    let cases = [
        (Service::DynamoDb, 400, "AccessDeniedException", "dynamodb:DescribeTable"),
        (Service::DynamoDb, 400, "UnrecognizedClientException", "dynamodb:DescribeTable"),
        (Service::Sqs, 403, "AccessDenied", "sqs:GetQueueAttributes"),
        (Service::Sqs, 403, "InvalidClientTokenId", "sqs:GetQueueAttributes"),
    ];
    for (service, status, code, permission) in cases {
        proxy.forget_seen();
        proxy.plan([Rule::always(On::Service(service), Fault::Refuse(status, code))]);
        let error = look(&sdk, &settings).await.expect_err("denied");
        let text = error.to_string();
        assert!(matches!(error, CheckError::Denied { .. }), "{code}: {error:?}");
        assert!(text.contains(permission) && text.contains(code), "{text}");
        let tries = proxy.seen().iter().filter(|seen| seen.fault.is_some()).count();
        assert_eq!(tries, 1, "{code}");
    }
    proxy.plan([Rule::always(On::Any, Fault::Gone)]);
    let error = look(&sdk, &settings).await.expect_err("away");
    assert!(error.is_transient(), "{error:?}");
    Ok(())
}

async fn without_region_or_credentials_no_call_is_made() -> Outcome {
    let (account, direct, settings) = scene().await?;
    let proxy = Proxy::start(&account.endpoint, 1);
    let there = direct.into_builder().endpoint_url(proxy.endpoint()).build();
    let no_region = there.clone().into_builder().region(None).build();
    let mut no_credentials = there.into_builder();
    no_credentials.set_credentials_provider(None);
    for sdk in [no_region, no_credentials.build()] {
        let error = look(&sdk, &settings).await.expect_err("it cannot call");
        assert!(matches!(error, CheckError::NotConfigured { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains("AWS_REGION"), "{error}");
    }
    assert_eq!(proxy.seen(), []);
    Ok(())
}

async fn an_unknown_key_is_denied_where_signatures_are_checked() -> Outcome {
    let emulator = Emulator::start_with(&[("AUTH", "true")])?;
    let account = Account { id: "AKIAIOSFODNN7EXAMPLE".to_owned(), ..emulator.account() };
    let sdk = sdk(&account).await;
    let queue_url = format!("{}/123456789012/rdev", account.endpoint);
    let settings = Settings::new(TABLE.to_owned(), queue_url);
    let error = look(&sdk, &settings).await.expect_err("denied");
    assert!(matches!(error, CheckError::Denied { .. }), "{error:?}");
    let queue = SqsQueue::new(aws_sdk_sqs::Client::new(&sdk), settings);
    let error = queue.receive(Duration::ZERO).await.expect_err("denied");
    assert!(matches!(error, PortError::Denied { .. }), "{error:?}");
    Ok(())
}
