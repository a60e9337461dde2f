//! `Debug` for the messages that hold a key or a token: it shows what is public and leaves out the rest.
//!
//! `build.rs` lists them (`SECRET`) and makes none for these. A message that contains one of them prints it
//! through what is written here.

use std::fmt;

use crate::attestor::PodUp;
use crate::csi::NodePublishVolumeRequest;
use crate::spire::server::agent::{
    AttestAgentRequest, AttestAgentResponse, CreateJoinTokenRequest, attest_agent_request, attest_agent_response,
};
use crate::{spire::types, workload};

/// `Debug` with the named fields alone; `..` stands for what is secret.
macro_rules! shows_only {
    ($message:ty { $($field:ident),* }) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}

shows_only!(workload::X509svid { spiffe_id, hint });
shows_only!(workload::Jwtsvid { spiffe_id, hint });
shows_only!(workload::Witsvid { spiffe_id, hint });
shows_only!(workload::ValidateJwtsvidRequest { audience });
shows_only!(types::AttestationData { r#type });
shows_only!(types::JoinToken { expires_at });
shows_only!(types::Jwtsvid {
    id,
    issued_at,
    expires_at,
    hint
});
shows_only!(types::Witsvid {
    id,
    issued_at,
    expires_at,
    hint
});
shows_only!(CreateJoinTokenRequest { ttl, agent_id });
shows_only!(PodUp {
    pod_uid,
    namespace,
    name,
    service_account
});
// The token is in `secrets` or among the attributes in `volume_context`, as the cluster has it.
shows_only!(NodePublishVolumeRequest {
    volume_id,
    target_path,
    readonly
});
shows_only!(AttestAgentRequest { step });
shows_only!(attest_agent_request::Params { data, params });
shows_only!(AttestAgentResponse { step });
shows_only!(attest_agent_response::Result { svid, reattestable });

impl fmt::Debug for attest_agent_request::Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Params(params) => f.debug_tuple("Params").field(params).finish(),
            Self::ChallengeResponse(_) => f.write_str("ChallengeResponse(..)"),
        }
    }
}

impl fmt::Debug for attest_agent_response::Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Result(result) => f.debug_tuple("Result").field(result).finish(),
            Self::Challenge(_) => f.write_str("Challenge(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::attestor::{FromNode, from_node};
    use crate::spire::types::AttestationData;

    /// What no output may contain; ASCII, so that it would also show as bytes.
    const SECRET: &str = "swordfish";

    fn secret() -> String {
        SECRET.to_owned()
    }

    #[test]
    fn a_message_with_a_key_or_token_does_not_print_it() {
        let printed = [
            format!(
                "{:?}",
                workload::X509svidResponse {
                    svids: vec![workload::X509svid {
                        spiffe_id: "spiffe://example.org/w".into(),
                        x509_svid_key: secret().into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                workload::JwtsvidResponse {
                    svids: vec![workload::Jwtsvid {
                        svid: secret(),
                        ..Default::default()
                    }],
                }
            ),
            format!(
                "{:?}",
                workload::WitsvidResponse {
                    svids: vec![workload::Witsvid {
                        wit_svid: secret(),
                        wit_svid_key: secret(),
                        ..Default::default()
                    }],
                }
            ),
            format!(
                "{:?}",
                workload::ValidateJwtsvidRequest {
                    audience: "a".into(),
                    svid: secret()
                }
            ),
            format!(
                "{:?}",
                types::JoinToken {
                    value: secret(),
                    expires_at: 1
                }
            ),
            format!(
                "{:?}",
                types::Jwtsvid {
                    token: secret(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                types::Witsvid {
                    token: secret(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                CreateJoinTokenRequest {
                    token: secret(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                AttestAgentRequest {
                    step: Some(attest_agent_request::Step::Params(attest_agent_request::Params {
                        data: Some(AttestationData {
                            r#type: "join_token".into(),
                            payload: secret().into(),
                        }),
                        params: None,
                    })),
                }
            ),
            format!(
                "{:?}",
                AttestAgentRequest {
                    step: Some(attest_agent_request::Step::ChallengeResponse(secret().into())),
                }
            ),
            format!(
                "{:?}",
                AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Challenge(secret().into())),
                }
            ),
            format!(
                "{:?}",
                FromNode {
                    message: Some(from_node::Message::PodUp(PodUp {
                        token: secret(),
                        ..Default::default()
                    })),
                }
            ),
            format!(
                "{:?}",
                NodePublishVolumeRequest {
                    secrets: [("token".to_owned(), secret())].into(),
                    volume_context: [("token".to_owned(), secret())].into(),
                    ..Default::default()
                }
            ),
        ];

        for text in &printed {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert!(printed[0].contains("spiffe://example.org/w"), "{}", printed[0]);
    }

    #[test]
    fn a_key_that_is_not_printed_still_goes_over_the_wire() {
        let sent = workload::X509svid {
            x509_svid_key: secret().into(),
            ..Default::default()
        };
        let received = workload::X509svid::decode(sent.encode_to_vec().as_slice());
        assert_eq!(received, Ok(sent));
    }
}
