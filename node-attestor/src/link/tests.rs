use tonic::Status;

use crate::join::Refusal;

#[test]
fn a_plain_refusal_is_not_one_of_the_node() {
    assert_eq!(Refusal::of(&Status::permission_denied("no")), None);
}
