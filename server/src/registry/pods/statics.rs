//! `ClusterStaticEntry` objects: entries as they are, of no pod.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::Registry;
use super::super::computed::ComputedEntry;
use super::super::rules::{ClusterStaticEntryStatus, Metadata, Settings, static_entry};
use super::State;
use crate::roll::{Cluster, Object, ObjectKind, Write};

/// Sets the entries that the cluster's objects say. Of two that say the same, the older one does.
pub(super) fn set(registry: &Registry, cluster: &Cluster, state: &mut State, tells_status: bool) {
    let mut objects = cluster.objects(ObjectKind::ClusterStaticEntry);
    objects.sort_by_key(|object| (object.meta.created, object.meta.uid));
    let mut entries: Vec<ComputedEntry> = Vec::new();
    for object in objects {
        let status = match entry(&state.settings, &object) {
            // Another server's, and its status, too.
            Ok(None) => continue,
            Ok(Some(entry)) => {
                let masked = entries.iter().any(|other| {
                    (&other.spiffe_id, &other.parent_id, &other.selectors)
                        == (&entry.spiffe_id, &entry.parent_id, &entry.selectors)
                });
                if !masked {
                    entries.push(entry);
                }
                ClusterStaticEntryStatus {
                    rendered: true,
                    masked,
                    set: !masked,
                }
            }
            Err(why) => {
                tracing::warn!(
                    cluster = &**cluster.name(),
                    name = &*object.meta.name,
                    why,
                    "a ClusterStaticEntry cannot be used"
                );
                ClusterStaticEntryStatus::default()
            }
        };
        if tells_status && state.statics.insert(object.meta.uid, status) != Some(status) {
            cluster.tell(Write::Status {
                kind: ObjectKind::ClusterStaticEntry,
                namespace: Arc::default(),
                name: Arc::clone(&object.meta.name),
                status: serde_json::to_value(status).unwrap_or_default(),
            });
        }
    }
    registry.set_computed(&format!("{}/static", cluster.name()), entries);
}

fn entry(settings: &Settings, object: &Object) -> Result<Option<ComputedEntry>, String> {
    let spec = serde_json::from_value(object.spec.clone()).map_err(|error| error.to_string())?;
    let created = OffsetDateTime::from_unix_timestamp(object.meta.created).ok();
    let metadata = Metadata {
        name: object.meta.name.to_string(),
        uid: object.meta.uid.to_string(),
        creation_timestamp: created.and_then(|at| at.format(&Rfc3339).ok()),
        generation: object.generation,
        ..Metadata::default()
    };
    static_entry(settings, &metadata, &spec)
}
