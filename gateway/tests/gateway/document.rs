//! The OpenAPI document, as a judge of answers.

use std::collections::BTreeSet;

use devstack::testing::Process;
use jsonschema::Validator;
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::support::{Answer, NOWHERE, World, answer};

pub(crate) struct Document {
    json: Value,
    /// Operations and statuses that were seen: `GET /path/ 200`.
    seen: Mutex<BTreeSet<String>>,
}

impl Document {
    pub(crate) async fn of(world: &World, gateway: &Process) -> Self {
        let found = answer(world.bare(gateway, Method::GET, "/chat/api/openapi.json")).await;
        assert_eq!(found.status, 200);
        assert!(found.body["openapi"].as_str().unwrap().starts_with("3.1."));
        Self { json: found.body, seen: Mutex::default() }
    }

    /// The paths, each with its methods in capitals.
    pub(crate) fn paths(&self) -> Vec<(String, BTreeSet<String>)> {
        let methods = |item: &Value| item.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect();
        self.json["paths"].as_object().unwrap().iter().map(|(path, item)| (path.clone(), methods(item))).collect()
    }

    /// Every status that the document promises: `GET /path/ 200`.
    pub(crate) fn promised(&self) -> BTreeSet<String> {
        let mut promised = BTreeSet::new();
        for (path, item) in self.json["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let statuses = operation["responses"].as_object().unwrap().keys();
                promised.extend(statuses.map(|status| format!("{} {path} {status}", method.to_uppercase())));
            }
        }
        promised
    }

    pub(crate) fn seen(&self) -> BTreeSet<String> {
        self.seen.lock().clone()
    }

    /// An answer is one of those that the document names for the operation: status, headers, content type, and a body of
    /// the described fields and no others.
    pub(crate) fn judge(&self, method: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path} {}", answer.status);
        let operation = &self.json["paths"][path][method.to_lowercase()];
        let described = &operation["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{what} is not described: {answer:?}");
        for header in described["headers"].as_object().into_iter().flat_map(Map::keys) {
            assert!(answer.headers.contains_key(header), "{what} lacks {header}");
        }
        match described["content"].as_object() {
            None => assert_eq!(answer.body, "", "{what}"),
            Some(content) => {
                let media_type = answer.headers["content-type"].to_str().unwrap();
                let schema = &content.get(media_type).unwrap_or_else(|| panic!("{what}: {media_type}"))["schema"];
                let faults: Vec<_> =
                    self.validator(schema).iter_errors(&answer.body).map(|it| it.to_string()).collect();
                assert!(faults.is_empty(), "{what}: {faults:#?} in {}", answer.body);
            }
        }
        if answer.status >= 400 {
            assert_eq!(answer.body["status"], answer.status, "{what}");
            let codes = described["description"].as_str().unwrap();
            assert!(codes.contains(&format!("`{}`", answer.code())), "{what}: {} is not in {codes:?}", answer.code());
        }
        self.seen.lock().insert(what);
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut root = schema.clone();
        let mut components = self.json["components"].clone();
        for schema in components["schemas"].as_object_mut().unwrap().values_mut() {
            if schema["properties"].is_object() {
                schema["additionalProperties"] = json!(false);
            }
        }
        root["components"] = components;
        jsonschema::draft202012::options().should_validate_formats(true).build(&root).unwrap()
    }
}

/// Calls operations as somebody, and has the document judge what comes.
pub(crate) struct Caller<'a> {
    pub(crate) world: &'a World,
    pub(crate) gateway: &'a Process,
    pub(crate) document: &'a Document,
}

impl Caller<'_> {
    pub(crate) fn request(&self, user: &str, method: &Method, path: &str) -> RequestBuilder {
        self.world.bare(self.gateway, method.clone(), path).bearer_auth(self.world.token(user))
    }

    /// The operation's path is as the document has it, `actual` is what is asked for, by the request that `shape` makes.
    pub(crate) async fn ask(
        &self,
        status: u16,
        (method, path): (Method, &str),
        actual: &str,
        shape: impl Fn(&str) -> RequestBuilder,
    ) -> Answer {
        let told = answer(shape(actual)).await;
        assert_eq!(told.status, status, "{method} {actual}: {told:?}");
        self.document.judge(method.as_str(), path, &told);
        told
    }

    /// The same as [`Self::ask`], as somebody with a JSON body.
    pub(crate) async fn send(
        &self,
        status: u16,
        operation: (Method, &str),
        actual: &str,
        user: &str,
        body: Value,
    ) -> Answer {
        let method = operation.0.clone();
        self.ask(status, operation, actual, |path| self.request(user, &method, path).json(&body)).await
    }

    pub(crate) async fn get(&self, status: u16, path: &str, actual: &str, user: &str) -> Answer {
        self.ask(status, (Method::GET, path), actual, |path| self.request(user, &Method::GET, path)).await
    }

    /// What is wrong with any body: not JSON, not an object, not declared, too large.
    pub(crate) async fn refuses_bodies(&self, operation: (Method, &str), actual: &str) {
        let given = |media_type: &'static str, body: String| {
            let method = operation.0.clone();
            move |path: &str| {
                let request = self.request("ann", &method, path).header("content-type", media_type);
                request.body(body.clone())
            }
        };
        let json = "application/json";
        self.ask(400, operation.clone(), actual, given(json, "{".into())).await;
        self.ask(400, operation.clone(), actual, given(json, "[{}]".into())).await;
        self.ask(415, operation.clone(), actual, given("text/plain", "{\"seq\":1}".into())).await;
        let large = format!("{{\"padding\":\"{}\"}}", "x".repeat(80_000));
        self.ask(413, operation.clone(), actual, given(json, large)).await;
    }

    /// No token, no name of a conversation, another's conversation, none at all.
    pub(crate) async fn refuses_strangers(&self, operation: (Method, &str), chat: &str, body: &Value) {
        let place = |id: &str| operation.1.replace("{id}", id).replace("{user_id}", "bob");
        let method = operation.0.clone();
        let nobody = |path: &str| self.world.bare(self.gateway, method.clone(), path).json(body);
        self.ask(401, operation.clone(), &place(chat), nobody).await;
        if operation.1.contains("{id}") {
            self.send(400, operation.clone(), &place("not-a-uuid"), "ann", body.clone()).await;
            self.send(403, operation.clone(), &place(chat), "eve", body.clone()).await;
            self.send(404, operation.clone(), &place(NOWHERE), "ann", body.clone()).await;
        }
    }
}
