//! Asks server reflection which services and methods there are.

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic_reflection::pb::{v1, v1alpha};

use super::{
    Answer, Reflection, Refusal,
    api::{Api, with_header},
};

/// The name of the Workload API.
pub(crate) const SERVICE: &str = "SpiffeWorkloadAPI";

/// Looks through reflection, version 1 or else the older one.
pub(super) async fn observe(api: &Api) -> Reflection {
    let header = Some("true");
    let services = services(api, header).await;
    let methods = match &services {
        Ok(names) if names.iter().any(|name| name == SERVICE) => methods(api).await,
        Ok(_) => Err(Refusal::NotCalled(format!("reflection does not list {SERVICE}"))),
        Err(refusal) => Err(refusal.clone()),
    };
    let without_header = match &services {
        Ok(_) => self::services(api, None).await,
        Err(refusal) => Err(refusal.clone()),
    };
    Reflection {
        services,
        methods,
        without_header,
    }
}

async fn services(api: &Api, header: Option<&'static str>) -> Answer<Vec<String>> {
    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    match ask(api, MessageRequest::ListServices(String::new()), header).await? {
        MessageResponse::ListServicesResponse(list) => Ok(list.service.into_iter().map(|s| s.name).collect()),
        other => Err(unexpected(other)),
    }
}

async fn methods(api: &Api) -> Answer<Vec<String>> {
    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let files = match ask(api, MessageRequest::FileContainingSymbol(SERVICE.into()), Some("true")).await? {
        MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
        other => return Err(unexpected(other)),
    };
    let files = files
        .iter()
        .filter_map(|file| FileDescriptorProto::decode(file.as_slice()).ok());
    let service = files
        .flat_map(|file| file.service)
        .find(|service| service.name() == SERVICE);
    match service {
        Some(service) => Ok(service.method.iter().map(|method| method.name().to_owned()).collect()),
        None => Err(Refusal::NotCalled(format!(
            "reflection's file for {SERVICE} does not hold it"
        ))),
    }
}

/// One question to reflection version 1, and to v1alpha where that is not there.
async fn ask(
    api: &Api,
    question: v1::server_reflection_request::MessageRequest,
    header: Option<&'static str>,
) -> Answer<v1::server_reflection_response::MessageResponse> {
    let message = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(api.channel());
    let stream = futures::stream::iter([message.clone()]);
    let answer = api
        .first(client.server_reflection_info(with_header(stream, header)))
        .await;
    match answer {
        Err(refusal) if refusal.code() == Some(Code::Unimplemented) => {}
        answer => return answer?.message_response.ok_or(Refusal::Nothing),
    }
    // The two versions have the same messages, byte for byte.
    let recode = || Refusal::NotCalled("the reflection messages do not translate".into());
    let older = v1alpha::ServerReflectionRequest::decode(message.encode_to_vec().as_slice()).map_err(|_| recode())?;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(api.channel());
    let stream = futures::stream::iter([older]);
    let answer = api
        .first(client.server_reflection_info(with_header(stream, header)))
        .await?;
    let answer = v1::ServerReflectionResponse::decode(answer.encode_to_vec().as_slice()).map_err(|_| recode())?;
    answer.message_response.ok_or(Refusal::Nothing)
}

fn unexpected(response: v1::server_reflection_response::MessageResponse) -> Refusal {
    use v1::server_reflection_response::MessageResponse;
    match response {
        MessageResponse::ErrorResponse(error) => Refusal::NotCalled(format!(
            "reflection answered: {}",
            crate::report::shown(&error.error_message)
        )),
        _ => Refusal::NotCalled("reflection answered another question".into()),
    }
}
