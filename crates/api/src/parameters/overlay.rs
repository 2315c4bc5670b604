//! Two parameters joined.

use super::{
    Autoscaling, ClientParameters, GatewayParametersSpec, PodDisruptionBudget, Probe, Probes, Resources, ServiceParameters,
};

impl GatewayParametersSpec {
    /// These parameters (a class's) under those of a Gateway: where both set a field, the Gateway's value wins. Objects are joined field by
    /// field, lists and maps are replaced as a whole. `replicas` and `autoscaling` are one choice.
    pub fn overlay(&self, gateway: &Self) -> Self {
        let (replicas, autoscaling) = match (gateway.replicas, &gateway.autoscaling) {
            (None, None) => (self.replicas, self.autoscaling.clone()),
            (None, Some(autoscaling)) => (None, join(self.autoscaling.as_ref(), Some(autoscaling), Autoscaling::overlay)),
            (replicas, autoscaling) => (replicas, autoscaling.clone()),
        };
        Self {
            replicas,
            autoscaling,
            resources: join(self.resources.as_ref(), gateway.resources.as_ref(), Resources::overlay),
            service: join(self.service.as_ref(), gateway.service.as_ref(), ServiceParameters::overlay),
            clients: join(self.clients.as_ref(), gateway.clients.as_ref(), ClientParameters::overlay),
            service_routes: gateway.service_routes.or(self.service_routes),
            host_port: gateway.host_port.or(self.host_port),
            address_pools: either(&self.address_pools, &gateway.address_pools),
            node_selector: either(&self.node_selector, &gateway.node_selector),
            tolerations: either(&self.tolerations, &gateway.tolerations),
            affinity: either(&self.affinity, &gateway.affinity),
            priority_class_name: either(&self.priority_class_name, &gateway.priority_class_name),
            topology_spread_constraints: either(&self.topology_spread_constraints, &gateway.topology_spread_constraints),
            probes: join(self.probes.as_ref(), gateway.probes.as_ref(), Probes::overlay),
            termination_grace_period_seconds: gateway.termination_grace_period_seconds.or(self.termination_grace_period_seconds),
            image: either(&self.image, &gateway.image),
            pod_disruption_budget: join(
                self.pod_disruption_budget.as_ref(),
                gateway.pod_disruption_budget.as_ref(),
                PodDisruptionBudget::overlay,
            ),
            log_level: gateway.log_level.or(self.log_level),
            access_log: gateway.access_log.or(self.access_log),
            otlp_endpoint: either(&self.otlp_endpoint, &gateway.otlp_endpoint),
        }
    }

    /// What of these a Gateway's own namespace may decide: all but `addressPools` and `priorityClassName`, which belong to the whole cluster,
    /// and `image`: whoever may write Gateways but no pods must not get to run a program of theirs.
    #[must_use]
    pub fn of_namespace(&self) -> Self {
        Self { address_pools: None, priority_class_name: None, image: None, ..self.clone() }
    }
}

fn either<T: Clone>(class: &Option<T>, gateway: &Option<T>) -> Option<T> {
    gateway.as_ref().or(class.as_ref()).cloned()
}

fn join<T: Clone>(class: Option<&T>, gateway: Option<&T>, overlay: impl Fn(&T, &T) -> T) -> Option<T> {
    match (class, gateway) {
        (Some(class), Some(gateway)) => Some(overlay(class, gateway)),
        (only, None) | (None, only) => only.cloned(),
    }
}

impl Autoscaling {
    fn overlay(&self, gateway: &Self) -> Self {
        Self {
            min_replicas: gateway.min_replicas.or(self.min_replicas),
            max_replicas: gateway.max_replicas.or(self.max_replicas),
            target_cpu_utilization_percentage: gateway
                .target_cpu_utilization_percentage
                .or(self.target_cpu_utilization_percentage),
        }
    }
}

impl Resources {
    fn overlay(&self, gateway: &Self) -> Self {
        Self { requests: either(&self.requests, &gateway.requests), limits: either(&self.limits, &gateway.limits) }
    }
}

impl ServiceParameters {
    fn overlay(&self, gateway: &Self) -> Self {
        Self {
            r#type: gateway.r#type.or(self.r#type),
            load_balancer_class: either(&self.load_balancer_class, &gateway.load_balancer_class),
            external_traffic_policy: gateway.external_traffic_policy.or(self.external_traffic_policy),
            annotations: either(&self.annotations, &gateway.annotations),
            source_ranges: either(&self.source_ranges, &gateway.source_ranges),
        }
    }
}

impl ClientParameters {
    fn overlay(&self, gateway: &Self) -> Self {
        Self {
            proxy_protocol: gateway.proxy_protocol.or(self.proxy_protocol),
            trusted_hops: gateway.trusted_hops.or(self.trusted_hops),
        }
    }
}

impl Probes {
    fn overlay(&self, gateway: &Self) -> Self {
        Self {
            readiness: join(self.readiness.as_ref(), gateway.readiness.as_ref(), Probe::overlay),
            liveness: join(self.liveness.as_ref(), gateway.liveness.as_ref(), Probe::overlay),
        }
    }
}

impl Probe {
    fn overlay(&self, gateway: &Self) -> Self {
        Self {
            period_seconds: gateway.period_seconds.or(self.period_seconds),
            timeout_seconds: gateway.timeout_seconds.or(self.timeout_seconds),
            failure_threshold: gateway.failure_threshold.or(self.failure_threshold),
        }
    }
}

impl PodDisruptionBudget {
    fn overlay(&self, gateway: &Self) -> Self {
        Self { min_available: either(&self.min_available, &gateway.min_available) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> GatewayParametersSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_gateways_value_wins() {
        for (class, gateway, expected) in [
            (json!({}), json!({}), json!({})),
            (json!({"image": "a"}), json!({}), json!({"image": "a"})),
            (json!({"image": "a", "hostPort": true}), json!({"image": "b"}), json!({"image": "b", "hostPort": true})),
            (json!({"hostPort": true}), json!({"hostPort": false}), json!({"hostPort": false})),
            // Replicas and autoscaling are one choice.
            (json!({"replicas": 3}), json!({"autoscaling": {"maxReplicas": 5}}), json!({"autoscaling": {"maxReplicas": 5}})),
            (json!({"autoscaling": {"maxReplicas": 5}}), json!({"replicas": 1}), json!({"replicas": 1})),
            (
                json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 5}}),
                json!({"autoscaling": {"maxReplicas": 9}}),
                json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 9}}),
            ),
            // Objects are joined, lists and maps are not.
            (
                json!({"service": {"type": "NodePort", "annotations": {"a": "1"}, "sourceRanges": ["10.0.0.0/8"]}}),
                json!({"service": {"annotations": {"b": "2"}}}),
                json!({"service": {"type": "NodePort", "annotations": {"b": "2"}, "sourceRanges": ["10.0.0.0/8"]}}),
            ),
            (
                json!({"probes": {"readiness": {"periodSeconds": 1, "timeoutSeconds": 2}}}),
                json!({"probes": {"readiness": {"timeoutSeconds": 9}, "liveness": {"periodSeconds": 3}}}),
                json!({"probes": {"readiness": {"periodSeconds": 1, "timeoutSeconds": 9}, "liveness": {"periodSeconds": 3}}}),
            ),
            (
                json!({"clients": {"proxyProtocol": "Required", "trustedHops": 1}}),
                json!({"clients": {"trustedHops": 0}}),
                json!({"clients": {"proxyProtocol": "Required", "trustedHops": 0}}),
            ),
            (
                json!({"resources": {"requests": {"cpu": 1}, "limits": {"cpu": 2}}}),
                json!({"resources": {"requests": {"memory": "1Gi"}}}),
                json!({"resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": 2}}}),
            ),
        ] {
            assert_eq!(spec(class.clone()).overlay(&spec(gateway.clone())), spec(expected), "{class} under {gateway}");
        }
    }

    #[test]
    fn a_namespace_cannot_give_itself_what_is_the_clusters() {
        let gateway = spec(json!({
            "addressPools": ["192.0.2.0/24"], "image": "b", "priorityClassName": "system-node-critical", "accessLog": "Stdout",
        }));
        assert_eq!(gateway.of_namespace(), spec(json!({"accessLog": "Stdout"})));
    }
}
