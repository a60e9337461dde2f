use tonic_reflection::server::Builder;

#[test]
fn the_descriptors_for_reflection_decode() {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(mintmark_proto::WORKLOAD_FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    assert!(builder.build_v1().is_ok());
}
