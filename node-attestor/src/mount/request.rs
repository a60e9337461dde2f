//! What the kubelet asks for, read strictly.
//!
//! A volume's attributes are written by whoever writes the pod, and stand in one map with what the kubelet says about the pod. The kubelet's word wins where the CSIDriver object
//! asks for it; were that object wrong, a pod could name itself. So the pod's UID is also read from the target path, which nobody but the kubelet makes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use mintmark_proto::csi::volume_capability::AccessType;
use mintmark_proto::csi::{NodePublishVolumeRequest, VolumeCapability};
use mintmark_runtime::crypto::SecretString;
use serde::{Deserialize, Serialize};

use crate::peer::PodInfo;

/// The audience of the pod's token.
pub(super) const AUDIENCE: &str = "mintmark";
/// What the kubelet says about the pod begins like this.
const KUBELETS: &str = "csi.storage.k8s.io/";
/// Where it puts the pod's tokens.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// The attributes that a volume may have.
const KNOWN: [&str; 3] = ["audiences", "files", "layout"];
/// No longer ID of a volume (CSI specification, size limits).
const MAX_ID: usize = 128;
/// No longer path.
const MAX_PATH: usize = 4096;
/// No more tokens in files of one volume.
const MAX_AUDIENCES: usize = 16;
/// No longer audience.
const MAX_AUDIENCE: usize = 2048;
/// No longer name of a token's file.
const MAX_NAME: usize = 64;
/// No longer token.
const MAX_TOKEN: usize = 16 << 10;

/// A volume as it was asked for. It is what is kept on disk, so that the volume is found again after a restart; the pod's token is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The driver that was asked.
    pub(super) driver: String,
    /// The kubelet's name for the volume.
    pub(super) volume_id: String,
    /// Where the pod sees it.
    pub(super) target: PathBuf,
    /// Whose it is.
    pub(super) pod: PodInfo,
    /// The files in it, if any are wanted.
    pub(super) files: Option<Files>,
    /// The group that the files belong to: the pod's fsGroup.
    pub(super) group: Option<u32>,
}

/// The files that are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Files {
    /// How they are called.
    pub(super) layout: Layout,
    /// The JWT-SVIDs among them.
    pub(super) audiences: Vec<Audience>,
}

/// How files are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Layout {
    /// `svid.pem`, `svid_key.pem`, `bundle.pem`.
    #[default]
    Spiffe,
    /// `tls.crt`, `tls.key`, `ca.crt`.
    Tls,
    /// `cert-chain.pem`, `key.pem`, `root-cert.pem`.
    Istio,
}

/// A JWT-SVID in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Audience {
    /// The file is `jwt_<name>`.
    pub(super) name: String,
    /// For whom the token is.
    pub(super) audience: String,
}

/// What is wrong with a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// Something is missing or no good.
    #[error("{0}")]
    Invalid(String),
    /// The CSIDriver object makes the kubelet leave something out.
    #[error("{0}")]
    Cluster(String),
}

fn invalid<T>(why: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError::Invalid(why.into()))
}

impl Spec {
    /// Reads what is asked of `driver`, and the pod's token, for a kubelet whose directory is `kubelet_dir`.
    pub(super) fn read(
        driver: &str,
        request: NodePublishVolumeRequest,
        kubelet_dir: &Path,
    ) -> Result<(Self, SecretString), RequestError> {
        let NodePublishVolumeRequest {
            volume_id,
            target_path,
            volume_capability,
            readonly,
            mut secrets,
            volume_context: mut context,
        } = request;
        // First, so that the token is wiped however this ends.
        let tokens = SecretString::from(
            secrets
                .remove(TOKENS)
                .or_else(|| context.remove(TOKENS))
                .unwrap_or_default(),
        );
        check_id(&volume_id)?;
        let (target, uid_of_path) = target(&target_path, kubelet_dir)?;
        let group = group(volume_capability)?;
        if !readonly {
            return invalid(
                "the volume is not read-only, so that the pod could change what its containers trust; set `readOnly: true` in the pod's volume (spec.volumes[].csi.readOnly)",
            );
        }
        let mut told = |what: &str| context.remove(&format!("{KUBELETS}{what}"));
        match told("ephemeral").as_deref() {
            Some("true") => {}
            Some(_) => {
                return invalid(
                    "the volume is not an ephemeral inline volume, and there are no others of this driver; name the driver in the pod itself (spec.volumes[].csi)",
                );
            }
            None => return misset(driver, "the kubelet says nothing about the pod", "podInfoOnMount: true"),
        }
        let (Some(name), Some(namespace), Some(uid), Some(service_account)) = (
            told("pod.name"),
            told("pod.namespace"),
            told("pod.uid"),
            told("serviceAccount.name"),
        ) else {
            return misset(
                driver,
                "the kubelet does not say which pod this is",
                "podInfoOnMount: true",
            );
        };
        if uid != uid_of_path {
            return invalid(format!(
                "the volume is said to be of pod {uid:?}, and its path is one of pod {uid_of_path:?}"
            ));
        }
        context.retain(|name, _| !name.starts_with(KUBELETS));
        let spec = Self {
            driver: driver.to_owned(),
            volume_id,
            target,
            pod: PodInfo {
                uid,
                namespace,
                name,
                service_account,
            },
            files: files(&context)?,
            group,
        };
        Ok((spec, token(driver, &tokens)?))
    }
}

/// The CSIDriver object lacks a setting.
fn misset<T>(driver: &str, why: &str, setting: &str) -> Result<T, RequestError> {
    Err(RequestError::Cluster(format!(
        "{why}; the CSIDriver object {driver} needs `{setting}`, as the chart has it"
    )))
}

/// The volume's ID, if it is one.
pub(super) fn check_id(volume_id: &str) -> Result<(), RequestError> {
    match volume_id.len() {
        0 => invalid("volume_id is missing"),
        length if length > MAX_ID => invalid(format!(
            "volume_id has {length} bytes, and at most {MAX_ID} are possible"
        )),
        _ => Ok(()),
    }
}

/// The path, and the UID of the pod whose it is: `<kubelet>/pods/<UID>/volumes/kubernetes.io~csi/<volume>/mount`.
pub(super) fn target(path: &str, kubelet_dir: &Path) -> Result<(PathBuf, String), RequestError> {
    if path.is_empty() {
        return invalid("target_path is missing");
    }
    let shape = || {
        invalid(format!(
            "target_path {path:?} is not that of a pod's volume under {}; does csi.kubelet_dir in the attestor's configuration fit the kubelet's --root-dir?",
            kubelet_dir.join("pods").display()
        ))
    };
    if path.len() > MAX_PATH {
        return invalid(format!(
            "target_path has {} bytes, and at most {MAX_PATH} are possible",
            path.len()
        ));
    }
    let Ok(below) = Path::new(path).strip_prefix(kubelet_dir.join("pods")) else {
        return shape();
    };
    let parts: Option<Vec<&str>> = below
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some([uid, "volumes", "kubernetes.io~csi", _, "mount"]) => Ok((path.into(), (*uid).to_owned())),
        _ => shape(),
    }
}

/// The pod's fsGroup, of a capability that can be had.
fn group(capability: Option<VolumeCapability>) -> Result<Option<u32>, RequestError> {
    match capability.and_then(|capability| capability.access_type) {
        None => invalid("volume_capability is missing"),
        Some(AccessType::Block(_)) => {
            invalid("a block device is asked for, and there are only directories of this driver")
        }
        Some(AccessType::Mount(mount)) if mount.volume_mount_group.is_empty() => Ok(None),
        Some(AccessType::Mount(mount)) => match mount.volume_mount_group.parse() {
            Ok(group) => Ok(Some(group)),
            Err(_) => invalid(format!(
                "volume_mount_group {:?} is not a group's number",
                mount.volume_mount_group
            )),
        },
    }
}

/// The volume's own attributes.
fn files(attributes: &BTreeMap<String, String>) -> Result<Option<Files>, RequestError> {
    if let Some(unknown) = attributes.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return invalid(format!(
            "unknown volume attribute {:?}; there are {}",
            unknown.chars().take(64).collect::<String>(),
            KNOWN.join(", ")
        ));
    }
    let wanted = match attributes.get("files").map(String::as_str) {
        None | Some("false" | "") => false,
        Some("true") => true,
        Some(other) => {
            return invalid(format!(
                "volume attribute files is {other:?}; it is \"true\" or \"false\""
            ));
        }
    };
    let layout = match attributes.get("layout").map(String::as_str) {
        None | Some("" | "spiffe") => Layout::Spiffe,
        Some("tls") => Layout::Tls,
        Some("istio") => Layout::Istio,
        Some(other) => {
            return invalid(format!(
                "volume attribute layout is {other:?}; there are spiffe, tls and istio"
            ));
        }
    };
    let audiences = audiences(attributes.get("audiences").map_or("", String::as_str))?;
    if !wanted && (!audiences.is_empty() || layout != Layout::Spiffe) {
        return invalid(
            "volume attributes layout and audiences are about files, and none are asked for; set `files: \"true\"`",
        );
    }
    Ok(wanted.then_some(Files { layout, audiences }))
}

/// `name=audience` or an audience alone, with commas between.
fn audiences(text: &str) -> Result<Vec<Audience>, RequestError> {
    let mut audiences: Vec<Audience> = Vec::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, audience) = one.split_once('=').unwrap_or((one, one));
        let (name, audience) = (name.trim(), audience.trim());
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
            return invalid(format!(
                "volume attribute audiences: {name:?} cannot be part of a file's name; write name=audience, with a name of up to {MAX_NAME} letters, digits, '-', '_' and '.'"
            ));
        }
        if audience.is_empty() || audience.len() > MAX_AUDIENCE {
            return invalid(format!(
                "volume attribute audiences: the audience of {name:?} has {} bytes, and 1 to {MAX_AUDIENCE} are possible",
                audience.len()
            ));
        }
        if audiences.iter().any(|other| other.name == name) {
            return invalid(format!("volume attribute audiences: {name:?} is there twice"));
        }
        audiences.push(Audience {
            name: name.to_owned(),
            audience: audience.to_owned(),
        });
    }
    match audiences.len() {
        0..=MAX_AUDIENCES => Ok(audiences),
        count => invalid(format!(
            "volume attribute audiences has {count} audiences, and at most {MAX_AUDIENCES} are possible"
        )),
    }
}

/// The pod's token among those that the kubelet brought. Nothing of what is wrong with them is shown.
fn token(driver: &str, tokens: &SecretString) -> Result<SecretString, RequestError> {
    #[derive(Deserialize)]
    struct Token {
        token: SecretString,
    }
    let missing = || {
        misset(
            driver,
            "the kubelet has brought no token of the pod for audience \"mintmark\"",
            "tokenRequests: [{audience: mintmark}]",
        )
    };
    if tokens.is_empty() {
        return missing();
    }
    let Ok(mut tokens) = serde_json::from_str::<BTreeMap<String, Token>>(tokens.expose()) else {
        return invalid("the pod's tokens are not in the form that the kubelet gives them");
    };
    match tokens.remove(AUDIENCE) {
        None => missing(),
        Some(Token { token }) if token.is_empty() || token.expose().len() > MAX_TOKEN => {
            invalid("the pod's token is empty, or larger than a token is")
        }
        Some(Token { token }) => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use mintmark_proto::csi::volume_capability::{BlockVolume, MountVolume};

    use super::*;

    const ROOT: &str = "/var/lib/kubelet";

    fn request() -> NodePublishVolumeRequest {
        let told = |name: &str, value: &str| (format!("{KUBELETS}{name}"), value.to_owned());
        NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: format!("{ROOT}/pods/u-1/volumes/kubernetes.io~csi/spiffe/mount"),
            volume_capability: capability(""),
            readonly: true,
            secrets: BTreeMap::new(),
            volume_context: [
                told("pod.name", "cart-0"),
                told("pod.namespace", "shop"),
                told("pod.uid", "u-1"),
                told("serviceAccount.name", "cart"),
                told("ephemeral", "true"),
                told(
                    "serviceAccount.tokens",
                    r#"{"mintmark":{"token":"t0","expirationTimestamp":"2027-01-15T08:00:00Z"},"other":{"token":"o"}}"#,
                ),
            ]
            .into(),
        }
    }

    fn capability(group: &str) -> Option<VolumeCapability> {
        let mount = MountVolume {
            volume_mount_group: group.into(),
            ..MountVolume::default()
        };
        Some(VolumeCapability {
            access_type: Some(AccessType::Mount(mount)),
        })
    }

    fn read(request: NodePublishVolumeRequest) -> Result<(Spec, SecretString), RequestError> {
        Spec::read("csi.mintmark.dev", request, Path::new(ROOT))
    }

    fn with(attributes: &[(&str, &str)]) -> Result<Option<Files>, String> {
        let mut request = request();
        for (name, value) in attributes {
            request.volume_context.insert((*name).into(), (*value).into());
        }
        let read = read(request).map_err(|error| error.to_string())?;
        Ok(read.0.files)
    }

    #[test]
    fn a_volume_is_that_of_the_pod_which_the_kubelet_names() {
        let (spec, token) = read(request()).unwrap();
        assert_eq!(spec.pod.uid, "u-1");
        assert_eq!(
            (&*spec.pod.namespace, &*spec.pod.name, &*spec.pod.service_account),
            ("shop", "cart-0", "cart")
        );
        assert_eq!((token.expose(), spec.files, spec.group), ("t0", None, None));

        // The token may come among the secrets instead.
        let mut secret = request();
        let tokens = secret.volume_context.remove(TOKENS).unwrap();
        secret.secrets.insert(TOKENS.into(), tokens);
        secret.volume_capability = capability("2000");
        let (spec, token) = read(secret).unwrap();
        assert_eq!((token.expose(), spec.group), ("t0", Some(2000)));
        assert!(!serde_json::to_string(&spec).unwrap().contains("t0"));
    }

    #[test]
    fn files_are_called_and_hold_what_the_attributes_say() {
        let audience = |name: &str, audience: &str| Audience {
            name: name.into(),
            audience: audience.into(),
        };
        assert_eq!(with(&[("files", "false")]), Ok(None));
        for (layout, expected) in [
            ("spiffe", Layout::Spiffe),
            ("tls", Layout::Tls),
            ("istio", Layout::Istio),
        ] {
            let files = with(&[("files", "true"), ("layout", layout)]).unwrap().unwrap();
            assert_eq!((files.layout, files.audiences.len()), (expected, 0));
        }
        let files = with(&[
            ("files", "true"),
            ("audiences", "aws=sts.amazonaws.com, b,v=https://v?a=b"),
        ]);
        assert_eq!(
            files.unwrap().unwrap().audiences,
            [
                audience("aws", "sts.amazonaws.com"),
                audience("b", "b"),
                audience("v", "https://v?a=b")
            ]
        );
    }

    #[test]
    fn an_attribute_that_does_not_go_is_named_with_what_does() {
        let many = (0..17).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        for (attributes, expected) in [
            (
                vec![("fils", "true")],
                "unknown volume attribute \"fils\"; there are audiences, files, layout",
            ),
            (vec![("files", "yes")], "\"true\" or \"false\""),
            (
                vec![("files", "true"), ("layout", "pkcs12")],
                "there are spiffe, tls and istio",
            ),
            (vec![("layout", "tls")], "set `files: \"true\"`"),
            (vec![("audiences", "a")], "set `files: \"true\"`"),
            (
                vec![("files", "true"), ("audiences", "https://a")],
                "write name=audience",
            ),
            (vec![("files", "true"), ("audiences", "../a=a")], "write name=audience"),
            (
                vec![("files", "true"), ("audiences", "a=1,a=2")],
                "\"a\" is there twice",
            ),
            (vec![("files", "true"), ("audiences", "a=")], "has 0 bytes"),
            (vec![("files", "true"), ("audiences", &*many)], "17 audiences"),
        ] {
            let error = with(&attributes).unwrap_err();
            assert!(error.contains(expected), "{attributes:?}: {error}");
        }
    }

    #[test]
    fn what_is_missing_or_no_good_is_refused_with_what_would_help() {
        type Change = fn(&mut NodePublishVolumeRequest);
        let cases: [(Change, &str); 16] = [
            (|r| r.volume_id.clear(), "volume_id is missing"),
            (|r| r.volume_id = "x".repeat(129), "129 bytes"),
            (|r| r.target_path.clear(), "target_path is missing"),
            (|r| r.target_path = "/etc".into(), "csi.kubelet_dir"),
            (
                |r| r.target_path = format!("{ROOT}/pods/u-1/volumes/kubernetes.io~csi/../mount"),
                "csi.kubelet_dir",
            ),
            (
                |r| r.target_path = format!("{ROOT}/pods/u-1/volumes/kubernetes.io~csi/v/mount/x"),
                "csi.kubelet_dir",
            ),
            (|r| r.volume_capability = None, "volume_capability is missing"),
            (
                |r| {
                    r.volume_capability = Some(VolumeCapability {
                        access_type: Some(AccessType::Block(BlockVolume {})),
                    })
                },
                "a block device",
            ),
            (
                |r| r.volume_capability = capability("root"),
                "\"root\" is not a group's number",
            ),
            (|r| r.readonly = false, "readOnly: true"),
            (
                |r| drop(r.volume_context.insert(format!("{KUBELETS}pod.uid"), "u-2".into())),
                "pod \"u-2\", and its path is one of pod \"u-1\"",
            ),
            (
                |r| drop(r.volume_context.remove("csi.storage.k8s.io/pod.name")),
                "podInfoOnMount: true",
            ),
            (
                |r| drop(r.volume_context.remove("csi.storage.k8s.io/ephemeral")),
                "podInfoOnMount: true",
            ),
            (
                |r| drop(r.volume_context.insert(format!("{KUBELETS}ephemeral"), "false".into())),
                "not an ephemeral inline volume",
            ),
            (|r| drop(r.volume_context.remove(TOKENS)), "tokenRequests"),
            (
                |r| drop(r.volume_context.insert(TOKENS.into(), "t0".into())),
                "the form that the kubelet gives",
            ),
        ];
        for (change, expected) in cases {
            let mut request = request();
            change(&mut request);
            let error = read(request).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("t0"), "{expected}: {error}");
        }
    }
}
