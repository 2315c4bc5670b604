//! Random snapshots of few keys and few values, so that most pairs share some.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::{Attachment, Bundle, Endpoint, MeshedPod, MtlsMode, TrustDomain};

const FULL: &str = include_str!("../full.json");

fn full() -> Snapshot {
    serde_json::from_str(FULL).unwrap()
}

/// Every item of a snapshot.
fn items(snapshot: &Snapshot) -> Vec<Item> {
    snapshot.changes(&Snapshot::default()).puts
}

fn map<K, V>(keys: &'static [&'static str], value: impl Strategy<Value = V>) -> impl Strategy<Value = BTreeMap<K, Arc<V>>>
where
    K: FromStr<Err: fmt::Debug> + Ord + fmt::Debug,
    V: fmt::Debug,
{
    btree_map(select(keys).prop_map(|key| key.parse().unwrap()), value.prop_map(Arc::new), 0..4)
}

fn snapshots() -> impl Strategy<Value = Snapshot> {
    let gateway = btree_set(0_u8..3, 0..2).prop_map(|last: BTreeSet<u8>| {
        let addresses = last.into_iter().map(|last| [10, 0, 0, last].into()).collect();
        Gateway { addresses, ..Gateway::default() }
    });
    let route = (0_i64..3).prop_map(|created| Route { created, rules: Vec::new() });
    let service = btree_set(select(vec!["a", "b"]), 0..2).prop_map(|namespaces| {
        let attached = || vec![Attachment { route: "HTTPRoute/a/a".parse().unwrap(), hostnames: Vec::new() }];
        let consumers = namespaces.into_iter().map(|namespace| (namespace.to_owned(), attached())).collect();
        ServiceParent { consumers, ..ServiceParent::default() }
    });
    let backend = btree_set(0_u16..3, 0..2).prop_map(|ports: BTreeSet<u16>| {
        let endpoints = ports.into_iter().map(|port| Endpoint { address: ([10, 0, 0, 1], port).into() }).collect();
        Backend { endpoints, ..Backend::default() }
    });
    let certificate = select(vec!["a", "b"]).prop_map(|text| Certificate { chain: text.to_owned(), key: text.to_owned() });
    let bundle = select(vec!["a", "b"]).prop_map(|text| Bundle { certificates: text.to_owned() });
    const BUNDLES: &[&str] = &["ConfigMap/a/a", "ConfigMap/a/b", "Secret/a/a"];
    const SECRETS: &[&str] = &["Secret/a/a", "Secret/a/b", "Secret/b/a"];
    (
        map(&["Gateway/a/a", "Gateway/a/b"], gateway),
        map(&["HTTPRoute/a/a", "UDPRoute/a/a", "HTTPRoute/a-b/a"], route),
        map(&["Service/a/a:1", "Service/b/a:1"], service),
        map(&["HTTPRoute/a/a", "GRPCRoute/a/a"], (0_i64..3).prop_map(|created| Route { created, rules: Vec::new() })),
        map(&["Service/a/a:1", "Service/a/a:1/UDP", "Service/b/a:1"], backend),
        map(SECRETS, certificate),
        map(BUNDLES, bundle),
        btree_set(select(SECRETS).prop_map(|key| key.parse().unwrap()), 0..3),
        btree_set(select(BUNDLES).prop_map(|key| key.parse().unwrap()), 0..3),
        of_mesh(),
    )
        .prop_map(
            |(gateways, routes, services, service_routes, backends, certificates, bundles, kept, kept_bundles, mesh)| Snapshot {
                gateways,
                routes,
                services,
                service_routes,
                backends,
                certificates,
                bundles,
                kept,
                kept_bundles,
                ..mesh
            },
        )
}

fn of_mesh() -> impl Strategy<Value = Snapshot> {
    let mesh = select(vec!["a", "b"])
        .prop_map(|text| Arc::new(Mesh { trust_domain: TrustDomain::default(), authorities: text.to_owned() }));
    let workloads = btree_set(0_u8..3, 0..2).prop_map(|last: BTreeSet<u8>| Workloads {
        pods: last.into_iter().map(|last| ([10, 0, 0, last].into(), MeshedPod::default())).collect(),
    });
    let frontend = (0_u16..3).prop_map(|port| Frontend { addresses: Vec::new(), ports: vec![port] });
    let inbound =
        select(vec![MtlsMode::Permissive, MtlsMode::Strict]).prop_map(|mode| Arc::new(Inbound { mode, ..Inbound::default() }));
    (
        option::of(mesh),
        map(&["ServiceAccount/a/a", "ServiceAccount/a/b"], workloads),
        map(&["a/a", "a/b"], frontend),
        option::of(inbound),
    )
        .prop_map(|(mesh, workloads, frontends, inbound)| Snapshot {
            mesh,
            workloads,
            frontends,
            inbound,
            ..Snapshot::default()
        })
}

proptest! {
    #[test]
    fn changes_make_one_snapshot_of_another(from in snapshots(), to in snapshots()) {
        let changes = to.changes(&from);
        let mut applied = from.clone();
        applied.apply(changes.clone());
        prop_assert_eq!(&applied, &to);
        prop_assert_eq!(applied.version(), to.version());
        prop_assert_eq!(changes.is_empty(), from == to);
        // Nothing is sent that is there already, and nothing is taken out that is not there or comes again.
        let held: BTreeSet<ItemKey> = items(&from).iter().map(Item::key).collect();
        for item in &changes.puts {
            prop_assert!(!items(&from).contains(item) && !changes.removes.contains(&item.key()));
        }
        prop_assert!(changes.removes.iter().all(|key| held.contains(key)));
    }

    #[test]
    fn a_snapshot_is_its_items(snapshot in snapshots()) {
        let mut built = Snapshot::default();
        for item in items(&snapshot) {
            let (key, json) = (item.key().to_string(), serde_json::to_string(&item.value()).unwrap());
            built.put(Item::parse(key.parse().unwrap(), &json).unwrap());
        }
        prop_assert_eq!(built, snapshot);
    }
}

#[test]
fn every_kind_of_item_is_sent_and_read() {
    let full = full();
    let mut built = Snapshot::default();
    for item in items(&full) {
        let json = serde_json::to_string(&item.value()).unwrap();
        let read = Item::parse(item.key().to_string().parse().unwrap(), &json).unwrap();
        assert_eq!(read, item);
        built.put(read);
    }
    assert_eq!(built, full);
    let empty = full.gateways.is_empty() || full.routes.is_empty() || full.backends.is_empty() || full.certificates.is_empty();
    let empty = empty || full.services.is_empty() || full.service_routes.is_empty();
    let empty = empty || full.bundles.is_empty() || full.kept_bundles.is_empty();
    let empty = empty || full.mesh.is_none() || full.workloads.is_empty() || full.frontends.is_empty() || full.inbound.is_none();
    assert!(!empty && !full.kept.is_empty(), "the full snapshot has items of every kind");
    items(&full).iter().for_each(|item| built.remove(&item.key()));
    assert_eq!(built, Snapshot::default());
}

#[test]
fn keys_are_read_as_they_are_shown() {
    for text in [
        "Gateway/a/b",
        "HTTPRoute/a/b",
        "GRPCRoute/a/b",
        "Service/a/b:80",
        "Secret/a/b",
        "Kept/Secret/a/b",
        "TLSRoute/a/b",
        "Service/a/b:53/UDP",
        "Bundle/ConfigMap/a/b",
        "KeptBundle/Secret/a/b",
        "Parent/Service/a/b:80",
        "ServiceRoute/GRPCRoute/a/b",
    ] {
        assert_eq!(text.parse::<ItemKey>().map(|key| key.to_string()), Ok(text.to_owned()));
    }
    for text in ["", "Gateway", "Route/a/b", "gateway/a/b"] {
        assert_eq!(text.parse::<ItemKey>(), Err(UnknownItem::Kind(text.to_owned())));
    }
    for text in
        ["Gateway/a", "HTTPRoute/a/b/c", "Service/a/b", "Kept/Gateway/a/b", "Kept/", "Parent/Gateway/a/b", "ServiceRoute/a/b"]
    {
        assert!(matches!(text.parse::<ItemKey>(), Err(UnknownItem::Name(_))), "{text}");
    }
}

#[test]
fn fields_of_a_newer_model_are_passed_over_and_values_of_another_kind_are_not() {
    let key: ItemKey = "Service/a/b:80".parse().unwrap();
    let item = Item::parse(key.clone(), r#"{"protocol":"h2c","endpoints":["10.0.0.1:80"],"zones":["a"]}"#).unwrap();
    assert_eq!(item.key(), key);
    for json in ["{}", "[]", "{", r#"{"protocol":"h9","endpoints":[]}"#, r#"{"protocol":"HTTP","endpoints":["x"]}"#] {
        assert!(Item::parse(key.clone(), json).is_err(), "{json}");
    }
}
