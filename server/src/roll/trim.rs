//! From the API server's objects to ours: what is kept, shared and bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::facts::{Container, Meta, Node, Object, ObjectKind, Owner, Pairs, Phase, Pod, Role, Uid, UidError};
use super::intern::Interner;
use super::wire;

/// A longer annotation is left out.
const MAX_ANNOTATION: usize = 1_024;
/// So many bytes of annotations of one object are kept.
const MAX_ANNOTATIONS: usize = 8_192;
/// What tools write into annotations about the object itself, at length, and nobody makes an identity of.
const NEVER: [&str; 1] = ["kubectl.kubernetes.io/last-applied-configuration"];

pub(super) fn meta(interner: &mut Interner, wire: wire::Meta) -> Result<Meta, UidError> {
    let (annotations, left_out) = annotations(interner, wire.annotations.unwrap_or_default());
    let owners = wire.owner_references.unwrap_or_default().into_iter();
    // An owner whose UID is none is no owner that anything could be checked against.
    let owners = owners.filter_map(|owner| {
        Some(Owner {
            uid: Uid::parse(&owner.uid).ok()?,
            api_version: interner.get(&owner.api_version),
            kind: interner.get(&owner.kind),
            name: interner.get(&owner.name),
            is_controller: owner.controller.unwrap_or_default(),
        })
    });
    let owners = owners.collect();
    Ok(Meta {
        uid: Uid::parse(&wire.uid)?,
        namespace: interner.get(&wire.namespace),
        name: wire.name.into(),
        generate_name: interner.get(&wire.generate_name),
        created: wire.creation_timestamp.as_deref().map(unix).unwrap_or_default(),
        is_deleting: wire.deletion_timestamp.is_some(),
        labels: pairs(interner, wire.labels.unwrap_or_default()),
        annotations,
        left_out,
        owners,
    })
}

pub(super) fn pod(interner: &mut Interner, wire: wire::Pod) -> Result<Pod, UidError> {
    let wire::Pod { metadata, spec, status } = wire;
    let lists = [
        (Role::Init, spec.init_containers, status.init_container_statuses),
        (Role::Main, spec.containers, status.container_statuses),
        (
            Role::Ephemeral,
            spec.ephemeral_containers,
            status.ephemeral_container_statuses,
        ),
    ];
    let mut containers = Vec::new();
    for (role, specs, statuses) in lists {
        let statuses = statuses.unwrap_or_default();
        for container in specs.unwrap_or_default() {
            let status = statuses.iter().find(|status| status.name == container.name);
            let id = status.map_or("", |status| &status.container_id);
            containers.push(Container {
                role,
                name: interner.get(&container.name),
                image: interner.get(&container.image),
                image_id: interner.get(status.map_or("", |status| &status.image_id)),
                id: id.split_once("://").map_or(id, |(_, id)| id).into(),
            });
        }
    }
    let mut drivers: Vec<_> = spec.volumes.unwrap_or_default().into_iter().collect();
    drivers.retain(|volume| volume.csi.as_ref().is_some_and(|csi| !csi.driver.is_empty()));
    let mut csi_drivers: Vec<Arc<str>> = drivers
        .into_iter()
        .filter_map(|volume| Some(interner.get(&volume.csi?.driver)))
        .collect();
    csi_drivers.sort();
    csi_drivers.dedup();
    Ok(Pod {
        meta: meta(interner, metadata)?,
        node: interner.get(&spec.node_name),
        service_account: interner.get(&spec.service_account_name),
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        hostname: interner.get(&spec.hostname),
        subdomain: interner.get(&spec.subdomain),
        scheduler: interner.get(&spec.scheduler_name),
        priority_class: interner.get(&spec.priority_class_name),
        runtime_class: interner.get(&spec.runtime_class_name.unwrap_or_default()),
        restart_policy: interner.get(&spec.restart_policy),
        containers: containers.into(),
        csi_drivers: csi_drivers.into(),
        phase: Phase::parse(&status.phase),
        ip: status.pod_ip.into(),
        host_ip: interner.get(&status.host_ip),
        kept: None,
    })
}

pub(super) fn node(interner: &mut Interner, wire: wire::Node) -> Result<Node, UidError> {
    Ok(Node {
        meta: meta(interner, wire.metadata)?,
        provider_id: interner.get(&wire.spec.provider_id),
        pod_cidr: interner.get(&wire.spec.pod_cidr),
        is_unschedulable: wire.spec.unschedulable,
        kept: None,
    })
}

pub(super) fn object(interner: &mut Interner, kind: ObjectKind, wire: wire::Object) -> Result<Object, UidError> {
    Ok(Object {
        kind,
        generation: wire.metadata.generation,
        meta: meta(interner, wire.metadata)?,
        spec: wire.spec,
    })
}

/// The service of an EndpointSlice, and the pods of its own namespace behind it, in order.
pub(super) fn slice(interner: &mut Interner, wire: wire::Slice) -> (Arc<str>, Box<[Uid]>) {
    let service = wire
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("kubernetes.io/service-name"));
    let service = interner.get(service.map_or("", |name| name));
    // Whoever may write slices in one namespace must not name pods of another.
    let refs = wire.endpoints.unwrap_or_default().into_iter();
    let refs = refs.filter_map(|endpoint| endpoint.target_ref);
    let own =
        refs.filter(|to| to.kind == "Pod" && (to.namespace == wire.metadata.namespace || to.namespace.is_empty()));
    let mut pods: Vec<_> = own.filter_map(|to| Uid::parse(&to.uid).ok()).collect();
    pods.sort_unstable();
    pods.dedup();
    (service, pods.into())
}

fn pairs(interner: &mut Interner, map: BTreeMap<String, String>) -> Pairs {
    let pairs = map
        .iter()
        .map(|(name, value)| (interner.get(name), interner.get(value)));
    Pairs(pairs.collect())
}

fn annotations(interner: &mut Interner, map: BTreeMap<String, String>) -> (Pairs, Box<[Arc<str>]>) {
    let (mut kept, mut left_out, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (name, value) in map {
        let size = name.len() + value.len();
        if value.len() > MAX_ANNOTATION || bytes + size > MAX_ANNOTATIONS || NEVER.contains(&&*name) {
            left_out.push(interner.get(&name));
        } else {
            bytes += size;
            // Values differ from pod to pod more often than not.
            kept.push((interner.get(&name), Arc::from(value)));
        }
    }
    (Pairs(kept.into()), left_out.into())
}

fn unix(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_is_kept_what_identity_needs_and_no_more() {
        let long = "x".repeat(MAX_ANNOTATION + 1);
        let pod = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "1b4e28ba-2fa1-4d2a-883f-0016d3cca427",
                "creationTimestamp": "2026-11-24T10:00:00Z",
                "labels": {"b": "2", "a": "1"},
                "annotations": {"note": "short", "blob": long, "kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                    "uid": "00000000-0000-4000-8000-000000000001", "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "web", "hostPID": true, "runtimeClassName": "gvisor",
                "containers": [{"name": "app", "image": "app:1", "env": [{"name": "A", "value": "B"}]}],
                "initContainers": [{"name": "init", "image": "init:1"}],
                "volumes": [{"csi": {"driver": "csi.mintmark.dev"}, "name": "a"}, {"csi": {"driver": "csi.mintmark.dev"}}, {"emptyDir": {}}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "hostIP": "198.18.0.2",
                "containerStatuses": [{"name": "app", "imageID": "app@sha256:aa", "containerID": "containerd://ff"}],
            },
        });
        let pod = super::pod(&mut Interner::default(), serde_json::from_value(pod).unwrap()).unwrap();
        assert_eq!(pod.meta.created, 1_795_514_400);
        assert_eq!(pod.meta.labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!(pod.meta.labels.get("b").map(|value| &**value), Some("2"));
        assert_eq!(pod.meta.annotations.iter().collect::<Vec<_>>(), [("note", "short")]);
        assert_eq!(pod.meta.left_out.len(), 2, "{:?}", pod.meta.left_out);
        assert_eq!(
            (&*pod.meta.owners[0].kind, pod.meta.owners[0].is_controller),
            ("StatefulSet", true)
        );
        assert_eq!(
            (&*pod.node, &*pod.service_account, &*pod.runtime_class),
            ("n1", "web", "gvisor")
        );
        assert_eq!((pod.host_pid, pod.host_ipc, pod.host_network), (true, false, false));
        let containers: Vec<_> = pod.containers.iter().map(|c| (c.role, &*c.name, &*c.id)).collect();
        assert_eq!(containers, [(Role::Init, "init", ""), (Role::Main, "app", "ff")]);
        assert_eq!(pod.csi_drivers.len(), 1);
        assert_eq!(
            (pod.phase, &*pod.ip, &*pod.host_ip),
            (Phase::Running, "10.0.0.1", "198.18.0.2")
        );
    }

    #[test]
    fn an_object_of_the_least_is_still_read_and_one_without_a_uid_is_not_kept() {
        let uid = "1b4e28ba-2fa1-4d2a-883f-0016d3cca427";
        let least: wire::Pod =
            serde_json::from_value(json!({"metadata": {"uid": uid, "creationTimestamp": null}})).unwrap();
        assert_eq!(pod(&mut Interner::default(), least).unwrap().phase, Phase::Unknown);
        let none: wire::Pod = serde_json::from_value(json!({"metadata": {"uid": "web"}})).unwrap();
        assert!(pod(&mut Interner::default(), none).is_err());
    }

    #[test]
    fn a_slice_speaks_only_for_pods_of_its_own_namespace() {
        let uid = |n: u8| format!("00000000-0000-4000-8000-0000000000{n:02}");
        let to = |kind: &str, namespace: &str, n| json!({"targetRef": {"kind": kind, "namespace": namespace, "uid": uid(n)}});
        let wire = json!({
            "metadata": {"name": "web-x1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [to("Pod", "shop", 2), to("Pod", "bank", 3), to("Node", "shop", 4), to("Pod", "shop", 1), {}],
        });
        let (service, pods) = slice(&mut Interner::default(), serde_json::from_value(wire).unwrap());
        assert_eq!(&*service, "web");
        assert_eq!(*pods, [1, 2].map(|n| Uid::parse(&uid(n)).unwrap()));
    }
}
