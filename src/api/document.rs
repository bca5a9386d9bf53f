//! What does the OpenAPI document say, and is the committed one up to date?

use std::collections::HashMap;
use std::marker::PhantomData;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{LicenseObject, OpenApi, OpenApiService, Tags};

use super::attempts::AttemptsApi;
use super::dead_letters::DeadLettersApi;
use super::destinations::DestinationsApi;
use super::health::HealthApi;
use super::messages::MessagesApi;
use super::queues::QueuesApi;
use super::replays::ReplaysApi;
use super::routes::AppState;
use super::secrets::SecretsApi;
use super::trials::TrialsApi;
use super::workers::WorkersApi;

#[derive(Tags)]
pub enum Tag {
    /// Where messages go
    Destinations,
    /// Why a queue moves or does not, and how to steer it
    Queues,
    /// What is sent
    Messages,
    /// What was given up on
    #[oai(rename = "Dead letters")]
    DeadLetters,
    /// Who does the work
    Workers,
    /// Whether this process serves
    Health,
}

pub type All = (
    DestinationsApi,
    SecretsApi,
    QueuesApi,
    TrialsApi,
    MessagesApi,
    AttemptsApi,
    DeadLettersApi,
    ReplaysApi,
    WorkersApi,
    HealthApi,
);

/// All operations.
pub struct Apis;

impl Apis {
    pub fn of(state: AppState) -> All {
        (
            DestinationsApi { state: state.clone() },
            SecretsApi { state: state.clone() },
            QueuesApi { state: state.clone() },
            TrialsApi { state: state.clone() },
            MessagesApi { state: state.clone() },
            AttemptsApi { state: state.clone() },
            DeadLettersApi { state: state.clone() },
            ReplaysApi { state: state.clone() },
            WorkersApi { state: state.clone() },
            HealthApi { state },
        )
    }
}

/// Operations without anything behind them: the document is made of their types alone.
struct Described<T>(PhantomData<T>);

impl<T: OpenApi> OpenApi for Described<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, _table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

/// The title page. The version is the contract's, not the program's: a release alone changes nothing here.
pub fn description<T: OpenApi>(apis: T) -> OpenApiService<T, ()> {
    OpenApiService::new(apis, "Orderly", "1")
        .summary("Strictly ordered webhook delivery")
        .description(
            "Register a destination, post messages to it, and it gets them one at a time, in the order in which they \
             were accepted.\n\nEvery error is a problem (RFC 9457). Times are RFC 3339 in UTC. Lists are read page by \
             page: `next` of one is `after` of the next.",
        )
        .license(LicenseObject::new("MIT OR Apache-2.0"))
}

/// Pretty, as it is committed.
pub fn openapi_json() -> String {
    let mut text = description(Described::<All>(PhantomData)).spec();
    text.push('\n');
    text
}

pub fn openapi_yaml() -> String {
    description(Described::<All>(PhantomData)).spec_yaml()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");

    #[test]
    fn the_committed_document_is_the_one_that_the_handlers_make() {
        let made = openapi_json();
        if std::env::var_os("ORDERLY_UPDATE_OPENAPI").is_some_and(|set| set == "1") {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi")).expect("a folder");
            std::fs::write(COMMITTED, &made).expect("the document is written");
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            committed == made,
            "openapi/openapi.json has drifted; run ORDERLY_UPDATE_OPENAPI=1 cargo test --lib api::document or \
             see what changed on purpose"
        );
    }

    #[test]
    fn every_operation_has_an_id_a_summary_and_its_answers() {
        let document: Value = serde_json::from_str(&openapi_json()).expect("JSON");
        let mut ids = std::collections::BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id"));
                assert!(ids.insert(id.to_owned()), "{id} stands twice");
                assert!(operation["summary"].is_string(), "{id} has no summary");
                let answers = operation["responses"].as_object().expect("answers");
                let success = |status: &String| status.starts_with('2');
                assert_eq!(answers.keys().filter(|status| success(status)).count(), 1, "{id}");
                if path.starts_with("/v1") {
                    assert!(["401", "403", "503"].iter().all(|status| answers.contains_key(*status)), "{id}");
                }
                if operation.get("requestBody").is_some() {
                    assert!(["400", "413", "415", "422"].iter().all(|status| answers.contains_key(*status)), "{id}");
                }
                if path.contains('{') {
                    assert!(answers.contains_key("404"), "{id}");
                }
            }
        }
        assert!(ids.len() >= 25, "{ids:?}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let page = description(Described::<All>(PhantomData)).swagger_ui_html();
        for outside in
            ["src=\"http", "href=\"http", "src='http", "@import", "url(http", "url(\"http", "url('http", "<link"]
        {
            // In the bundled script, a link is text that a click follows.
            let markup = page.split("<script").filter_map(|part| part.split_once("</script>")).map(|(_, rest)| rest);
            let markup: String = page.split("<script").take(1).chain(markup).collect();
            assert!(!markup.contains(outside), "{outside}");
        }
    }
}
