//! The JSON of Cloudflare's answers, field by field as documented.

use serde_json::{Value, json};

use super::records::{Done, Record, Refused, Zone};

pub(super) fn success(result: &Value) -> Value {
    json!({ "success": true, "errors": [], "messages": [], "result": result })
}

pub(super) fn page(result: &[Value], page: usize, per_page: usize, total: usize) -> Value {
    let mut body = success(&json!(result));
    body["result_info"] = json!({
        "page": page,
        "per_page": per_page,
        "count": result.len(),
        "total_count": total,
        "total_pages": total.div_ceil(per_page).max(1),
    });
    body
}

pub(super) fn failure(refused: &Refused) -> Value {
    let mut error = json!({ "code": refused.code, "message": refused.message });
    if let Some((code, message)) = &refused.chain {
        error["error_chain"] = json!([{ "code": code, "message": message }]);
    }
    json!({ "success": false, "errors": [error], "messages": [], "result": null })
}

pub(super) fn record(record: &Record) -> Value {
    let mut shape = json!({
        "id": record.id,
        "name": record.name,
        "type": record.kind,
        "content": record.content,
        "proxiable": record.leads(),
        "proxied": record.proxied,
        "ttl": record.ttl,
        "settings": {},
        "meta": {},
        "comment": record.comment,
        "tags": [],
        "created_on": record.created_on,
        "modified_on": record.modified_on,
    });
    if record.comment.is_some() {
        shape["comment_modified_on"] = json!(record.modified_on);
    }
    shape
}

pub(super) fn batch(done: &Done) -> Value {
    let list = |records: &[Record]| records.iter().map(record).collect::<Vec<Value>>();
    json!({
        "deletes": list(&done.deletes),
        "patches": list(&done.patches),
        "puts": list(&done.puts),
        "posts": list(&done.posts),
    })
}

pub(super) fn zone(zone: &Zone, may_edit: bool) -> Value {
    let mut permissions = vec!["#dns_records:read", "#zone:read"];
    if may_edit {
        permissions.push("#dns_records:edit");
    }
    json!({
        "id": zone.id,
        "name": zone.name,
        "status": zone.status,
        "paused": false,
        "type": "full",
        "development_mode": 0,
        "name_servers": ["ada.ns.cloudflare.com", "bob.ns.cloudflare.com"],
        "original_name_servers": null,
        "original_registrar": null,
        "original_dnshost": null,
        "modified_on": "2026-01-01T00:00:00.000000Z",
        "created_on": "2026-01-01T00:00:00.000000Z",
        "activated_on": "2026-01-01T00:00:00.000000Z",
        "meta": { "step": 2, "custom_certificate_quota": 0, "page_rule_quota": 3 },
        "owner": { "id": null, "type": "user", "email": null },
        "account": { "id": "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "name": "Example" },
        "tenant": { "id": null, "name": null },
        "tenant_unit": { "id": null },
        "permissions": permissions,
        "plan": { "id": "0feeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "name": "Free Website", "price": 0 },
    })
}

pub(super) fn verified() -> Value {
    let mut body =
        success(&json!({ "id": "ed17574386854bf78a67040be0a770b0", "status": "active" }));
    body["messages"] = json!([{
        "code": 10000, "message": "This API Token is valid and active", "type": null,
    }]);
    body
}
