//! How are destinations registered, shown, changed and removed?

use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, OpenApi};
use tokio::time::Instant;

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::idempotency::Idempotency;
use super::pagination::{List, Page, default_limit, page, parse_cursor};
use super::payload::{Gone, JsonBody, Reply};
use super::problem::{Answers, Changing, Creating, Ending, Listing, Problem, Reading};
use super::routes::AppState;
use super::settings::{DestinationBody, DestinationPatch, DestinationView};
use crate::domain::{Destination, DestinationId, DestinationSettings, DestinationState};
use crate::store::control::Control;
use crate::store::destinations::{Change, DestinationFilter, Registered};

/// Changes of one destination that meet begin anew; so many in a row do not happen by chance.
const CHANGE_TRIES: usize = 10;

pub struct DestinationsApi {
    pub state: AppState,
}

#[derive(ApiResponse)]
pub enum DestinationCreated {
    /// Registered
    #[oai(status = 201)]
    Created(
        Reply<DestinationView>,
        /// Its address
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Destinations")]
impl DestinationsApi {
    /// Register a destination
    #[oai(path = "/destinations", method = "post", operation_id = "createDestination")]
    async fn create(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        /// The same key with the same body within 24 hours answers the first answer again
        #[oai(name = "Idempotency-Key")]
        key: Idempotency,
        body: JsonBody<DestinationBody>,
    ) -> Result<DestinationCreated, Answers<Creating>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        let tenant = tenancy.as_deref();
        let key = key.of(body.bytes);
        let settings = body.value.check(&Default::default())?;
        let store = &self.state.store;
        // Before the URL's address is asked for: it may have changed since.
        if let Some(key) = &key
            && let Some(known) = store.find_registered(tenant, key).await?
        {
            return Ok(created(known, settings));
        }
        self.state.check_secrets(&settings.headers)?;
        self.state.check_url(&settings.url).await?;
        let registered = store.create_destination(tenant, &settings, key.as_ref()).await?;
        Ok(created(registered, settings))
    }

    /// List destinations, by id
    #[oai(path = "/destinations", method = "get", operation_id = "listDestinations")]
    async fn list(
        &self,
        #[oai(scope = "Scope::DestinationsRead")] caller: Caller,
        /// Only those with exactly this URL
        url: Query<Option<String>>,
        /// Only those in this state
        state: Query<Option<DestinationState>>,
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))] limit: Query<u16>,
        /// `next` of the page before
        after: Query<Option<String>>,
    ) -> Result<Reply<Page<DestinationView>>, Answers<Listing>> {
        let tenancy = caller.require(Scope::DestinationsRead)?;
        let [after] = parse_cursor(List::Destinations, after.0.as_deref())?;
        // No URL has a NUL, and Postgres takes no text with one.
        let url = url.0.map(|url| url.replace('\0', " "));
        let filter = DestinationFilter { tenant: tenancy.as_deref(), url: url.as_deref(), state: state.0 };
        let rows = self.state.store.list_destinations(filter, after, i64::from(limit.0) + 1).await?;
        Ok(Reply(page(List::Destinations, rows, limit.0, |row| [row.id.0], DestinationView::from)))
    }

    /// Show a destination
    #[oai(path = "/destinations/:id", method = "get", operation_id = "getDestination")]
    async fn get(
        &self,
        #[oai(scope = "Scope::DestinationsRead")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<DestinationView>, Answers<Reading>> {
        let tenancy = caller.require(Scope::DestinationsRead)?;
        let found = self.state.store.find_destination(id.0, tenancy.as_deref()).await?;
        Ok(Reply(found.ok_or_else(Problem::not_found)?.into()))
    }

    /// Replace a destination's settings
    ///
    /// What is left out goes back to its default; the state stays. It applies from the next try on, also to
    /// what is queued.
    #[oai(path = "/destinations/:id", method = "put", operation_id = "replaceDestination")]
    async fn replace(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
        body: JsonBody<DestinationBody>,
    ) -> Result<Reply<DestinationView>, Answers<Changing>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        let changed = self.change(id.0, tenancy.as_deref(), |stored| body.value.check(&stored.headers)).await?;
        Ok(Reply(changed.into()))
    }

    /// Change some of a destination's settings
    ///
    /// A JSON merge patch (RFC 7396). It applies from the next try on, also to what is queued.
    #[oai(path = "/destinations/:id", method = "patch", operation_id = "changeDestination")]
    async fn patch(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
        body: JsonBody<DestinationPatch>,
    ) -> Result<Reply<DestinationView>, Answers<Changing>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        let merge = |stored: &DestinationSettings| body.value.apply(stored).check(&stored.headers);
        let changed = self.change(id.0, tenancy.as_deref(), merge).await?;
        Ok(Reply(changed.into()))
    }

    /// Remove a destination and all that is queued for it
    ///
    /// After the answer nothing of it is sent, save one message that was in flight.
    #[oai(path = "/destinations/:id", method = "delete", operation_id = "deleteDestination")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Gone, Answers<Ending>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        self.state.store.remove_destination(id.0, tenancy.as_deref()).await?;
        Ok(Gone)
    }
}

impl DestinationsApi {
    /// Stores what `choose` makes of the stored settings; again, when somebody else was faster.
    async fn change(
        &self,
        id: DestinationId,
        tenant: Option<&str>,
        choose: impl Fn(&DestinationSettings) -> Result<DestinationSettings, Problem>,
    ) -> Result<Destination, Problem> {
        let store = &self.state.store;
        let asked_at = Instant::now();
        for _ in 0..CHANGE_TRIES {
            let before = store.find_destination(id, tenant).await?.ok_or_else(Problem::not_found)?;
            let settings = choose(&before.settings)?;
            if settings.headers != before.settings.headers {
                self.state.check_secrets(&settings.headers)?;
            }
            if settings.url != before.settings.url {
                self.state.check_url(&settings.url).await?;
            }
            match store.change_destination(&before, &settings).await? {
                Change::Done(updated_at) => {
                    store.control_since(asked_at, id, Control::Reload).await?;
                    return Ok(Destination { settings, updated_at, ..before });
                }
                Change::Stale => {}
                Change::NotFound => return Err(Problem::not_found()),
            }
        }
        Err(Problem::unavailable("too many changes of this destination at once"))
    }
}

fn created(registered: Registered, settings: DestinationSettings) -> DestinationCreated {
    let Registered { id, created_at } = registered;
    let destination = Destination {
        id,
        tenant: None,
        state: DestinationState::Active,
        settings,
        has_hmac_secret: false,
        created_at,
        updated_at: created_at,
    };
    DestinationCreated::Created(Reply(destination.into()), format!("/v1/destinations/{id}"))
}
