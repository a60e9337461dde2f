//! What others than the attestor's own container see of its mounts.

use std::io::ErrorKind;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_bind_recursive, mount_change};

use super::super::place;
use super::world::in_own_namespace;

#[test]
fn the_host_and_the_next_container_see_a_volume_read_only_as_this_one_does() {
    in_own_namespace(
        "propagation::the_host_and_the_next_container_see_a_volume_read_only_as_this_one_does",
        || async {
            let root = tempfile::tempdir().unwrap();
            let [ours, host] = ["ours", "host"].map(|name| root.path().join(name));
            for dir in [&ours, &host] {
                std::fs::create_dir(dir).unwrap();
            }
            // As `mountPropagation: Bidirectional` has it: what is mounted below one is mounted below the other.
            mount_bind(&ours, &ours).unwrap();
            mount_change(&ours, MountPropagationFlags::SHARED).unwrap();
            mount_bind_recursive(&ours, &host).unwrap();
            for with_files in [false, true] {
                let below = ["csi/key", "target"];
                let ([dir, target], [of_host, pods]) = (below.map(|at| ours.join(at)), below.map(|at| host.join(at)));
                std::fs::create_dir_all(ours.join("csi")).unwrap();
                place::prepare(&dir, with_files).unwrap();
                for _ in 0..2 {
                    place::publish(&dir, &target).unwrap();
                    assert!(place::is_published(&dir, &target) && place::is_published(&of_host, &pods));
                }
                std::fs::write(dir.join("x"), "x").unwrap();
                assert_eq!(std::fs::read(pods.join("x")).unwrap(), b"x");
                let refused = std::fs::write(pods.join("x"), "y").unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);

                // The next container ends what this one began.
                place::unpublish(&pods).unwrap();
                place::remove(&of_host).unwrap();
                assert!(!target.exists() && std::fs::read_dir(ours.join("csi")).unwrap().next().is_none());
                let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
                let root = root.path().to_str().unwrap();
                assert_eq!(mounts.lines().filter(|line| line.contains(root)).count(), 2, "{mounts}");
            }
            for dir in [&host, &ours] {
                rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
        },
    );
}

#[test]
fn a_view_that_is_not_read_only_or_was_half_made_is_made_anew() {
    in_own_namespace(
        "propagation::a_view_that_is_not_read_only_or_was_half_made_is_made_anew",
        || async {
            let root = tempfile::tempdir().unwrap();
            let (dir, target) = (root.path().join("key"), root.path().join("target"));
            place::prepare(&dir, true).unwrap();
            for path in [root.path().join("key.ro"), target.clone()] {
                std::fs::create_dir(&path).unwrap();
                mount_bind(&dir, &path).unwrap();
            }
            assert!(!place::is_published(&dir, &target));
            place::publish(&dir, &target).unwrap();
            assert!(place::is_published(&dir, &target));
            assert!(!root.path().join("key.ro").exists());
            place::unpublish(&target).unwrap();
            std::fs::create_dir(root.path().join("key.ro")).unwrap();
            mount_bind(&dir, root.path().join("key.ro")).unwrap();
            place::remove(&dir).unwrap();
            assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
        },
    );
}
