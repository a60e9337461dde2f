//! The check before uninstalling, as the chart's hook runs it, against an API server that does what the test says.

use std::process::{Command, Output};

use serde_json::json;

use crate::kubernetes::{Kubernetes, PODS, pod};

const UNDO: &str = "helm rollback mintmark 7 --namespace mintmark";

async fn check(kubernetes: &Kubernetes, drivers: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark-server"));
    command
        .arg("uninstall-check")
        .arg("--kubeconfig")
        .arg(kubernetes.kubeconfig());
    command.args(drivers.iter().map(|name| format!("--driver={name}")));
    command.arg(format!("--undo={UNDO}"));
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Exit status, standard output, standard error.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn mounting(kubernetes: &Kubernetes, name: &str, n: u32, driver: &str, phase: &str) {
    let mut pod = pod("shop", name, n, "n1");
    pod["spec"]["volumes"] = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "csi": {"driver": driver}}]);
    pod["status"]["phase"] = phase.into();
    kubernetes.put(PODS, pod);
}

#[tokio::test]
async fn uninstalling_is_refused_while_pods_mount_a_driver_and_they_are_named() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.put(PODS, pod("shop", "plain", 1, "n1"));
    mounting(&kubernetes, "other", 2, "csi.example.org", "Running");
    mounting(&kubernetes, "over", 3, "csi.mintmark.dev", "Succeeded");
    mounting(&kubernetes, "failed", 4, "csi.mintmark.dev", "Failed");
    let (code, out, error) = said(&check(&kubernetes, &["csi.mintmark.dev", "csi.spiffe.io"]).await);
    assert_eq!(
        (code, &*out, &*error),
        (Some(0), "no pod mounts csi.mintmark.dev or csi.spiffe.io\n", "")
    );
    // They were asked for by pages.
    let asked = kubernetes.asked(PODS);
    assert!(
        asked.len() == 2 && asked.iter().all(|asked| asked.query["limit"] == "500"),
        "{asked:?}"
    );

    mounting(&kubernetes, "spire", 5, "csi.spiffe.io", "Pending");
    assert_eq!(said(&check(&kubernetes, &["csi.mintmark.dev"]).await).0, Some(0));
    for n in 10..32 {
        mounting(&kubernetes, &format!("web-{n}"), n, "csi.mintmark.dev", "Running");
    }
    let (code, out, error) = said(&check(&kubernetes, &["csi.mintmark.dev", "csi.spiffe.io"]).await);
    assert_eq!((code, &*out), (Some(1), ""));
    for words in [
        "23 pods mount csi.mintmark.dev or csi.spiffe.io",
        "\n  shop/spire\n",
        "\n  and 3 more\n",
        UNDO,
        "--no-hooks",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(error.matches("shop/").count(), 20, "{error}");
    assert!(!error.contains("shop/other") && !error.contains("shop/over"), "{error}");
}

#[tokio::test]
async fn an_api_server_that_does_not_say_which_pods_there_are_is_no_leave_to_go_on() {
    let kubernetes = Kubernetes::start().await;
    for status in [403, 410, 500] {
        kubernetes.break_with(status, None);
        let (code, out, error) = said(&check(&kubernetes, &["csi.mintmark.dev"]).await);
        assert_eq!((code, &*out), (Some(1), ""));
        for words in ["cannot list pods", "broken by the test", UNDO, "--no-hooks"] {
            assert!(error.contains(words), "{status}: {words}: {error}");
        }
    }
    assert_eq!(kubernetes.asked(PODS).len(), 1 + 3 + 1);
}

#[tokio::test]
async fn a_check_of_nothing_and_one_outside_of_a_cluster_say_what_is_missing() {
    let kubernetes = Kubernetes::start().await;
    let (code, _, error) = said(&check(&kubernetes, &[]).await);
    assert!(code == Some(2) && error.contains("--driver"), "{error}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark-server"));
    command.args(["uninstall-check", "--driver=csi.mintmark.dev"]);
    command.env_remove("KUBERNETES_SERVICE_HOST");
    let (code, _, error) = said(&command.output().unwrap());
    assert!(
        code == Some(1) && error.contains("the service account of this server's pod"),
        "{error}"
    );
}
