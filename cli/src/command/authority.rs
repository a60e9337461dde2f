//! `mintmark authority`: the keys that sign, and when they change.

use clap::{Args, Subcommand};
use mintmark_proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use mintmark_proto::spire::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateWitAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState,
    GetJwtAuthorityStateRequest, GetWitAuthorityStateRequest, GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest,
    PrepareWitAuthorityRequest, PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeWitAuthorityRequest,
    RevokeX509AuthorityRequest, TaintJwtAuthorityRequest, TaintWitAuthorityRequest, TaintX509AuthorityRequest,
};

use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Fields, Table, stamp_and_distance};

/// Authorities: the keys that sign, and when they change
///
/// They change by themselves: prepared at half of their life, activated when a sixth of it is left. These commands do it by hand.
#[derive(Debug, Subcommand)]
pub enum Authority {
    /// The authority that signs X.509-SVIDs
    #[command(subcommand)]
    X509(X509),
    /// The authority that signs JWT-SVIDs
    #[command(subcommand)]
    Jwt(Jwt),
    /// The authority that signs WIT-SVIDs
    #[command(subcommand)]
    Wit(Wit),
}

#[derive(Debug, Args)]
pub struct Which {
    /// The authority's ID, as `show` tells it
    #[arg(long, value_name = "ID")]
    authority_id: String,
}

/// The verbs of one kind of authority: the enum of subcommands, and their calls.
macro_rules! verbs {
    ($kind:ident, $name:literal, $credentials:literal: $get:ident($gets:ident), $prepare:ident($prepares:ident), $activate:ident($activates:ident),
     $taint:ident($taints:ident), $revoke:ident($revokes:ident)) => {
        #[doc = concat!("The authority that signs ", $credentials)]
        #[derive(Debug, Subcommand)]
        pub enum $kind {
            /// Show the active, the prepared and the old one
            #[command(after_help = concat!("Example:\n  mintmark authority ", $name, " show"))]
            Show,
            /// Make the next one: it is in the bundle from now on and does not sign yet
            #[command(after_help = concat!("Example:\n  mintmark authority ", $name, " prepare"))]
            Prepare,
            /// Let the prepared one sign from now on
            #[command(after_help = concat!("Example:\n  mintmark authority ", $name, " activate --authority-id ID\n\n\
                Give the prepared one time to reach everybody's bundle first: what it signs is refused where it is not known."))]
            Activate(Which),
            /// Say that an old one is not to be trusted any longer: what it signed is replaced
            #[command(after_help = concat!("Example:\n  mintmark authority ", $name, " taint --authority-id ID"))]
            Taint(Which),
            /// Take an old one out of the bundle: nothing that it signed is believed any more
            #[command(after_help = concat!("Example:\n  mintmark authority ", $name, " revoke --authority-id ID"))]
            Revoke(Which),
        }

        impl $kind {
            async fn run(self, context: &Context) -> Result<(), Failure> {
                let mut client = admin!(LocalAuthorityClient, context);
                let now = context.clock.unix();
                match self {
                    Self::Show => {
                        let action = concat!("show the authorities for ", $credentials);
                        let answer = context.ask(action, client.$get($gets {})).await?;
                        context.out.message(&answer, |answer| {
                            table(now, [("active", &answer.active), ("prepared", &answer.prepared), ("old", &answer.old)])
                        })
                    }
                    Self::Prepare => {
                        let action = concat!("prepare an authority for ", $credentials);
                        let answer = context.ask(action, client.$prepare($prepares {})).await?;
                        context.out.message(&answer, |answer| fields(now, "prepared", &answer.prepared_authority))
                    }
                    Self::Activate(which) => {
                        let action = concat!("activate an authority for ", $credentials);
                        let answer = context.ask(action, client.$activate($activates { authority_id: which.authority_id })).await?;
                        context.out.message(&answer, |answer| fields(now, "activated", &answer.activated_authority))
                    }
                    Self::Taint(which) => {
                        let action = concat!("taint an authority for ", $credentials);
                        let answer = context.ask(action, client.$taint($taints { authority_id: which.authority_id })).await?;
                        context.out.message(&answer, |answer| fields(now, "tainted", &answer.tainted_authority))
                    }
                    Self::Revoke(which) => {
                        let action = concat!("revoke an authority for ", $credentials);
                        let answer = context.ask(action, client.$revoke($revokes { authority_id: which.authority_id })).await?;
                        context.out.message(&answer, |answer| fields(now, "revoked", &answer.revoked_authority))
                    }
                }
            }
        }
    };
}

verbs!(X509, "x509", "X.509-SVIDs": get_x509_authority_state(GetX509AuthorityStateRequest),
    prepare_x509_authority(PrepareX509AuthorityRequest), activate_x509_authority(ActivateX509AuthorityRequest),
    taint_x509_authority(TaintX509AuthorityRequest), revoke_x509_authority(RevokeX509AuthorityRequest));
verbs!(Jwt, "jwt", "JWT-SVIDs": get_jwt_authority_state(GetJwtAuthorityStateRequest),
    prepare_jwt_authority(PrepareJwtAuthorityRequest), activate_jwt_authority(ActivateJwtAuthorityRequest),
    taint_jwt_authority(TaintJwtAuthorityRequest), revoke_jwt_authority(RevokeJwtAuthorityRequest));
verbs!(Wit, "wit", "WIT-SVIDs": get_wit_authority_state(GetWitAuthorityStateRequest),
    prepare_wit_authority(PrepareWitAuthorityRequest), activate_wit_authority(ActivateWitAuthorityRequest),
    taint_wit_authority(TaintWitAuthorityRequest), revoke_wit_authority(RevokeWitAuthorityRequest));

impl Authority {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::X509(verb) => verb.run(context).await,
            Self::Jwt(verb) => verb.run(context).await,
            Self::Wit(verb) => verb.run(context).await,
        }
    }
}

fn table(now: i64, slots: [(&str, &Option<AuthorityState>); 3]) -> String {
    let mut table = Table::new(&["STATE", "AUTHORITY ID", "ENDS"]);
    for (name, state) in slots {
        let (id, end) = match state {
            Some(state) => (state.authority_id.clone(), stamp_and_distance(now, state.expires_at)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row([name.to_owned(), id, end]);
    }
    table.to_string()
}

fn fields(now: i64, done: &str, state: &Option<AuthorityState>) -> String {
    let Some(state) = state else {
        return done.to_owned();
    };
    let mut fields = Fields::default();
    fields
        .add(done, &state.authority_id)
        .add("ends", stamp_and_distance(now, state.expires_at))
        .some("signed by upstream", &state.upstream_authority_subject_key_id);
    fields.to_string()
}
