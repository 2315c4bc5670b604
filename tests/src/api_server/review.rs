//! TokenReview: token and audiences -> who it is, from a table.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The audience of requests that name none.
const API_SERVER: &str = "https://kubernetes.default.svc";

/// Who a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whom it is meant for.
    pub audiences: Vec<String>,
    /// The namespace of its service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The name and the uid of the pod that it is bound to.
    pub pod: Option<(String, String)>,
}

/// The tokens that are valid.
pub(super) type Tokens = BTreeMap<String, Token>;

/// Answers a `TokenReview` object.
pub(super) fn review(tokens: &Tokens, mut object: Value) -> Value {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut asked = texts(&object["spec"]["audiences"]);
    if asked.is_empty() {
        asked.push(API_SERVER.to_owned());
    }
    let token = object["spec"]["token"].as_str().and_then(|token| tokens.get(token));
    object["status"] = match token {
        None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
        Some(token) => {
            let audiences: Vec<_> = asked.iter().filter(|audience| token.audiences.contains(audience)).collect();
            if audiences.is_empty() {
                let error = format!("token audiences {:?} is invalid for the target audiences {asked:?}", token.audiences);
                json!({"user": {}, "error": error})
            } else {
                json!({"authenticated": true, "audiences": audiences, "user": user(token)})
            }
        }
    };
    object
}

fn user(token: &Token) -> Value {
    let Token { namespace, service_account, pod, .. } = token;
    let mut user = json!({
        "username": format!("system:serviceaccount:{namespace}:{service_account}"),
        "uid": "00000000-0000-4000-9000-000000000001",
        "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=00000000-0000-4000-9000-000000000002"]},
    });
    if let Some((name, uid)) = pod {
        user["extra"]["authentication.kubernetes.io/pod-name"] = json!([name]);
        user["extra"]["authentication.kubernetes.io/pod-uid"] = json!([uid]);
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_count_for_their_audience_only() {
        let token = Token {
            audiences: vec!["isthmus.dev/push".to_owned()],
            namespace: "shop".to_owned(),
            service_account: "edge".to_owned(),
            pod: Some(("edge-1".to_owned(), "u1".to_owned())),
        };
        let tokens = Tokens::from([("secret".to_owned(), token)]);
        for (token, audiences, expected) in [
            ("secret", json!(["isthmus.dev/push", "other"]), true),
            ("secret", json!(["other"]), false),
            ("secret", json!([]), false),
            ("else", json!(["isthmus.dev/push"]), false),
        ] {
            let answer = review(&tokens, json!({"spec": {"token": token, "audiences": audiences}}));
            assert_eq!(answer["status"]["authenticated"] == true, expected, "{token} {audiences}");
            assert_eq!(answer["status"]["error"].is_null(), expected);
            if expected {
                assert_eq!(answer["status"]["audiences"], json!(["isthmus.dev/push"]));
                assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:shop:edge");
                assert_eq!(answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["edge-1"]));
            }
        }
    }
}
