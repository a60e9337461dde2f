//! The objects that are not about pods.

use super::*;

#[test]
fn a_static_entry_says_what_its_object_says() {
    let meta = Metadata {
        name: "db".into(),
        uid: "u-1".into(),
        creation_timestamp: Some("2026-11-25T00:00:00Z".into()),
        ..Metadata::default()
    };
    let spec: ClusterStaticEntrySpec = serde_json::from_value(json!({
        "spiffeID": "spiffe://example.org/db",
        "parentID": "spiffe://example.org/node",
        "selectors": ["unix:uid:1", "unix:gid:2"],
        "federatesWith": ["other.test"],
        "x509SVIDTTL": "1h",
        "jwtSVIDTTL": "5m0s",
        "dnsNames": ["db.test"],
        "hint": "h",
        "admin": true,
        "downstream": true,
        "storeSVID": true,
    }))
    .unwrap();
    let entry = static_entry(&settings(), &meta, &spec).unwrap().unwrap();
    assert_eq!(&*entry.id, "k8s:one/static:u-1");
    assert_eq!((entry.spiffe_id.path(), entry.parent_id.path()), ("/db", "/node"));
    assert_eq!((entry.selectors.len(), entry.created_at), (2, 1_795_564_800));
    assert_eq!(entry.x509_ttl.map(|ttl| ttl.as_secs()), Some(3_600));
    assert_eq!(entry.jwt_ttl.map(|ttl| ttl.as_secs()), Some(300));
    assert!(entry.admin && entry.downstream && entry.store_svid && entry.revision > 0);
    for (field, value, why) in [
        ("spiffeID", json!("nonsense"), "spiffeID: "),
        (
            "spiffeID",
            json!("spiffe://other.test/a"),
            "not a member of this server's trust domain",
        ),
        ("parentID", json!(""), "parentID: "),
        ("selectors", json!([]), "selectors: "),
        ("selectors", json!(["x"]), "selectors: "),
        ("x509SVIDTTL", json!("1d"), "x509SVIDTTL: "),
        ("dnsNames", json!(["-"]), "dns_names: "),
    ] {
        let mut wrong = serde_json::to_value(&spec).unwrap();
        wrong[field] = value;
        let error = static_entry(&settings(), &meta, &serde_json::from_value(wrong).unwrap()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    assert!(
        static_entry(&settings().class_name("other"), &meta, &spec)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_federated_trust_domain_is_checked_as_spire_checks_it() {
    let spec = |change: fn(&mut Value)| {
        let mut spec = json!({
            "trustDomain": "other.test",
            "bundleEndpointURL": "https://other.test/bundle",
            "bundleEndpointProfile": {"type": "https_spiffe", "endpointSPIFFEID": "spiffe://other.test/e"},
        });
        change(&mut spec);
        federated_trust_domain(&settings(), &serde_json::from_value(spec).unwrap())
    };
    let one = spec(|_| ()).unwrap().unwrap();
    assert_eq!(one.trust_domain.as_str(), "other.test");
    assert_eq!(
        one.profile,
        EndpointProfile::HttpsSpiffe("spiffe://other.test/e".parse().unwrap())
    );
    assert!(one.bundle.is_none());
    let web = spec(|spec| spec["bundleEndpointProfile"] = json!({"type": "https_web"}));
    assert_eq!(web.unwrap().unwrap().profile, EndpointProfile::HttpsWeb);
    type Change = fn(&mut Value);
    let wrong: [(Change, &str); 8] = [
        (|spec| spec["trustDomain"] = "Not A Domain".into(), "trustDomain: "),
        (
            |spec| spec["trustDomain"] = "example.org".into(),
            "is this server's own",
        ),
        (
            |spec| spec["bundleEndpointURL"] = "http://other.test".into(),
            "does not begin with https",
        ),
        (
            |spec| spec["bundleEndpointURL"] = "https://a:b@other.test".into(),
            "has user information",
        ),
        (
            |spec| spec["bundleEndpointURL"] = "nonsense".into(),
            "bundleEndpointURL: ",
        ),
        (
            |spec| spec["bundleEndpointProfile"]["type"] = "x".into(),
            "neither https_web nor https_spiffe",
        ),
        (
            |spec| spec["bundleEndpointProfile"]["type"] = "https_web".into(),
            "https_web has none",
        ),
        (|spec| spec["trustDomainBundle"] = "{".into(), "trustDomainBundle: "),
    ];
    for (change, why) in wrong {
        let error = spec(change).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
