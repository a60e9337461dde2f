//! Protobuf JSON as `spire-server -output json` prints it: names as in the .proto files, what has no value with its default, 64-bit numbers as text, bytes
//! as base64, absent messages left out.

use std::io;
use std::sync::OnceLock;

use mintmark_proto::FILE_DESCRIPTOR_SET;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// A message of the wire as JSON.
///
/// # Errors
/// When the message is not one of the wire's: a defect of ours.
pub fn message<M: Message + Name>(message: &M) -> io::Result<Value> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptors of the wire decode, as its tests say")
    });
    let name = M::full_name();
    let Some(descriptor) = pool.get_message_by_name(&name) else {
        return Err(io::Error::other(format!("no descriptor of {name}")));
    };
    let dynamic = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..]).map_err(io::Error::other)?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(true)
        .skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mintmark_proto::spire::server::agent::ListAgentsResponse;
    use mintmark_proto::spire::server::entry::{BatchCreateEntryResponse, batch_create_entry_response};
    use mintmark_proto::spire::types;
    use mintmark_proto::workload::ValidateJwtsvidResponse;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_looks_as_spires_command_line_prints_it() {
        let token = types::JoinToken {
            value: "a".into(),
            expires_at: 1_800_000_000,
        };
        assert_eq!(
            message(&token).unwrap(),
            json!({"value": "a", "expires_at": "1800000000"})
        );

        let bundle = types::Bundle {
            trust_domain: "example.org".into(),
            x509_authorities: vec![types::X509Certificate {
                asn1: vec![255, 0].into(),
                tainted: false,
            }],
            ..Default::default()
        };
        assert_eq!(
            message(&bundle).unwrap(),
            json!({
                "trust_domain": "example.org", "x509_authorities": [{"asn1": "/wA=", "tainted": false}], "jwt_authorities": [],
                "refresh_hint": "0", "sequence_number": "0", "wit_authorities": []
            })
        );

        let created = BatchCreateEntryResponse {
            results: vec![batch_create_entry_response::Result {
                status: Some(types::Status {
                    code: 6,
                    message: "it is there".into(),
                }),
                entry: None,
            }],
        };
        assert_eq!(
            message(&created).unwrap(),
            json!({"results": [{"status": {"code": 6, "message": "it is there"}}]})
        );
        assert_eq!(
            message(&ListAgentsResponse::default()).unwrap(),
            json!({"agents": [], "next_page_token": ""})
        );
    }

    #[test]
    fn claims_are_plain_json() {
        let text = |text: &str| prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue(text.into())),
        };
        let validated = ValidateJwtsvidResponse {
            spiffe_id: "spiffe://example.org/a".into(),
            claims: Some(prost_types::Struct {
                fields: BTreeMap::from([("sub".to_owned(), text("spiffe://example.org/a"))]),
            }),
        };
        assert_eq!(
            message(&validated).unwrap(),
            json!({"spiffe_id": "spiffe://example.org/a", "claims": {"sub": "spiffe://example.org/a"}})
        );
    }
}
