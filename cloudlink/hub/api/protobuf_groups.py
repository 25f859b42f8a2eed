"""Field numbers of Kubernetes' messages: the named groups. The notation is that of `protobuf_fields`.

Facts out of the `protobuf:` tags in k8s.io/api's types.go, which never change once they are given out.
"""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, str] = {
    # apps
    "ControllerRevision": "1 metadata ObjectMeta, 2 data RawExtension, 3 revision? int",
    "DaemonSet": "1 metadata ObjectMeta, 2 spec DaemonSetSpec, 3 status DaemonSetStatus",
    "DaemonSetCondition": "1 type?, 2 status?, 3 lastTransitionTime Time, 4 reason, 5 message",
    "DaemonSetSpec": (
        "1 selector LabelSelector, 2 template PodTemplateSpec, 3 updateStrategy DaemonSetUpdateStrategy, 4 "
        "minReadySeconds int, 6 revisionHistoryLimit? int"
    ),
    "DaemonSetStatus": (
        "1 currentNumberScheduled? int, 2 numberMisscheduled? int, 3 desiredNumberScheduled? int, 4 numberReady? "
        "int, 5 observedGeneration int, 6 updatedNumberScheduled int, 7 numberAvailable int, 8 numberUnavailable "
        "int, 9 collisionCount? int, 10 conditions DaemonSetCondition*"
    ),
    "DaemonSetUpdateStrategy": "1 type, 2 rollingUpdate RollingUpdateDaemonSet",
    "Deployment": "1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status DeploymentStatus",
    "DeploymentCondition": (
        "1 type?, 2 status?, 4 reason, 5 message, 6 lastUpdateTime Time, 7 lastTransitionTime Time"
    ),
    "DeploymentSpec": (
        "1 replicas? int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy DeploymentStrategy, 5 "
        "minReadySeconds int, 6 revisionHistoryLimit? int, 7 paused bool, 9 progressDeadlineSeconds? int"
    ),
    "DeploymentStatus": (
        "1 observedGeneration int, 2 replicas int, 3 updatedReplicas int, 4 availableReplicas int, 5 "
        "unavailableReplicas int, 6 conditions DeploymentCondition*, 7 readyReplicas int, 8 collisionCount? int, "
        "9 terminatingReplicas? int"
    ),
    "DeploymentStrategy": "1 type, 2 rollingUpdate RollingUpdateDeployment",
    "ReplicaSet": "1 metadata ObjectMeta, 2 spec ReplicaSetSpec, 3 status ReplicaSetStatus",
    "ReplicaSetCondition": "1 type?, 2 status?, 3 lastTransitionTime Time, 4 reason, 5 message",
    "ReplicaSetSpec": "1 replicas? int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 minReadySeconds int",
    "ReplicaSetStatus": (
        "1 replicas? int, 2 fullyLabeledReplicas int, 3 observedGeneration int, 4 readyReplicas int, 5 "
        "availableReplicas int, 6 conditions ReplicaSetCondition*, 7 terminatingReplicas? int"
    ),
    "RollingUpdateDaemonSet": "1 maxUnavailable? IntOrString, 2 maxSurge? IntOrString",
    "RollingUpdateDeployment": "1 maxUnavailable? IntOrString, 2 maxSurge? IntOrString",
    "RollingUpdateStatefulSetStrategy": "1 partition? int, 2 maxUnavailable? IntOrString",
    "StatefulSet": "1 metadata ObjectMeta, 2 spec StatefulSetSpec, 3 status StatefulSetStatus",
    "StatefulSetCondition": "1 type?, 2 status?, 3 lastTransitionTime Time, 4 reason, 5 message",
    "StatefulSetOrdinals": "1 start? int",
    "StatefulSetPersistentVolumeClaimRetentionPolicy": "1 whenDeleted, 2 whenScaled",
    "StatefulSetSpec": (
        "1 replicas? int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 volumeClaimTemplates "
        "PersistentVolumeClaim*, 5 serviceName?, 6 podManagementPolicy, 7 updateStrategy "
        "StatefulSetUpdateStrategy, 8 revisionHistoryLimit? int, 9 minReadySeconds int, 10 "
        "persistentVolumeClaimRetentionPolicy StatefulSetPersistentVolumeClaimRetentionPolicy, 11 ordinals "
        "StatefulSetOrdinals"
    ),
    "StatefulSetStatus": (
        "1 observedGeneration int, 2 replicas? int, 3 readyReplicas int, 4 currentReplicas int, 5 updatedReplicas "
        "int, 6 currentRevision, 7 updateRevision, 9 collisionCount? int, 10 conditions StatefulSetCondition*, 11 "
        "availableReplicas? int"
    ),
    "StatefulSetUpdateStrategy": "1 type, 2 rollingUpdate RollingUpdateStatefulSetStrategy",
    # batch
    "CronJob": "1 metadata ObjectMeta, 2 spec CronJobSpec, 3 status CronJobStatus",
    "CronJobSpec": (
        "1 schedule?, 2 startingDeadlineSeconds? int, 3 concurrencyPolicy, 4 suspend? bool, 5 jobTemplate "
        "JobTemplateSpec, 6 successfulJobsHistoryLimit? int, 7 failedJobsHistoryLimit? int, 8 timeZone?"
    ),
    "CronJobStatus": "1 active ObjectReference*, 4 lastScheduleTime Time, 5 lastSuccessfulTime Time",
    "Job": "1 metadata ObjectMeta, 2 spec JobSpec, 3 status JobStatus",
    "JobCondition": "1 type?, 2 status?, 3 lastProbeTime Time, 4 lastTransitionTime Time, 5 reason, 6 message",
    "JobSchedulingConfiguration": (
        "1 schedulingPolicy unsupported, 2 schedulingConstraints unsupported, 3 disruptionMode unsupported, 4 "
        "resourceClaims unsupported*"
    ),
    "JobSpec": (
        "1 parallelism? int, 2 completions? int, 3 activeDeadlineSeconds? int, 4 selector LabelSelector, 5 "
        "manualSelector? bool, 6 template PodTemplateSpec, 7 backoffLimit? int, 8 ttlSecondsAfterFinished? int, 9 "
        "completionMode?, 10 suspend? bool, 11 podFailurePolicy PodFailurePolicy, 12 backoffLimitPerIndex? int, "
        "13 maxFailedIndexes? int, 14 podReplacementPolicy?, 15 managedBy?, 16 successPolicy SuccessPolicy, 17 "
        "scheduling JobSchedulingConfiguration"
    ),
    "JobStatus": (
        "1 conditions JobCondition*, 2 startTime Time, 3 completionTime Time, 4 active int, 5 succeeded int, 6 "
        "failed int, 7 completedIndexes, 8 uncountedTerminatedPods UncountedTerminatedPods, 9 ready? int, 10 "
        "failedIndexes?, 11 terminating? int"
    ),
    "JobTemplateSpec": "1 metadata ObjectMeta, 2 spec JobSpec",
    "PodFailurePolicy": "1 rules PodFailurePolicyRule*",
    "PodFailurePolicyOnExitCodesRequirement": "1 containerName?, 2 operator?, 3 values int*",
    "PodFailurePolicyOnPodConditionsPattern": "1 type?, 2 status?",
    "PodFailurePolicyRule": (
        "1 action?, 2 onExitCodes PodFailurePolicyOnExitCodesRequirement, 3 onPodConditions "
        "PodFailurePolicyOnPodConditionsPattern*"
    ),
    "SuccessPolicy": "1 rules SuccessPolicyRule*",
    "SuccessPolicyRule": "1 succeededIndexes?, 2 succeededCount? int",
    "UncountedTerminatedPods": "1 succeeded string*, 2 failed string*",
    # discovery
    "Endpoint": (
        "1 addresses string*, 2 conditions EndpointConditions, 3 hostname?, 4 targetRef ObjectReference, 5 "
        "deprecatedTopology string{}, 6 nodeName?, 7 zone?, 8 hints EndpointHints"
    ),
    "EndpointConditions": "1 ready? bool, 2 serving? bool, 3 terminating? bool",
    "EndpointHints": "1 forZones ForZone*, 2 forNodes ForNode*",
    "EndpointSlice": "1 metadata ObjectMeta, 2 endpoints Endpoint*, 3 ports discovery.EndpointPort*, 4 addressType?",
    "ForNode": "1 name?",
    "ForZone": "1 name?",
    "discovery.EndpointPort": "1 name?, 2 protocol?, 3 port? int, 4 appProtocol?",
    # scheduling
    "PriorityClass": "1 metadata ObjectMeta, 2 value? int, 3 globalDefault bool, 4 description, 5 preemptionPolicy?",
    # policy
    "Eviction": "1 metadata ObjectMeta, 2 deleteOptions? DeleteOptions",
    "PodDisruptionBudget": (
        "1 metadata ObjectMeta, 2 spec PodDisruptionBudgetSpec, 3 status PodDisruptionBudgetStatus"
    ),
    "PodDisruptionBudgetSpec": (
        "1 minAvailable? IntOrString, 2 selector LabelSelector, 3 maxUnavailable? IntOrString, 4 "
        "unhealthyPodEvictionPolicy?"
    ),
    "PodDisruptionBudgetStatus": (
        "1 observedGeneration int, 2 disruptedPods Time{}, 3 disruptionsAllowed? int, 4 currentHealthy? int, 5 "
        "desiredHealthy? int, 6 expectedPods? int, 7 conditions Condition*"
    ),
    # networking
    "HTTPIngressPath": "1 path, 2 backend IngressBackend, 3 pathType?",
    "HTTPIngressRuleValue": "1 paths HTTPIngressPath*",
    "IPBlock": "1 cidr?, 2 except string*",
    "Ingress": "1 metadata ObjectMeta, 2 spec IngressSpec, 3 status IngressStatus",
    "IngressBackend": "3 resource TypedLocalObjectReference, 4 service IngressServiceBackend",
    "IngressClass": "1 metadata ObjectMeta, 2 spec IngressClassSpec",
    "IngressClassParametersReference": "1 apiGroup?, 2 kind?, 3 name?, 4 scope?, 5 namespace?",
    "IngressClassSpec": "1 controller, 2 parameters IngressClassParametersReference",
    "IngressLoadBalancerIngress": "1 ip, 2 hostname, 4 ports IngressPortStatus*",
    "IngressLoadBalancerStatus": "1 ingress IngressLoadBalancerIngress*",
    "IngressPortStatus": "1 port? int, 2 protocol?, 3 error?",
    "IngressRule": "1 host, 2 < IngressRuleValue",
    "IngressRuleValue": "1 http HTTPIngressRuleValue",
    "IngressServiceBackend": "1 name?, 2 port ServiceBackendPort",
    "IngressSpec": "1 defaultBackend IngressBackend, 2 tls IngressTLS*, 3 rules IngressRule*, 4 ingressClassName?",
    "IngressStatus": "1 loadBalancer IngressLoadBalancerStatus",
    "IngressTLS": "1 hosts string*, 2 secretName",
    "NetworkPolicy": "1 metadata ObjectMeta, 2 spec NetworkPolicySpec",
    "NetworkPolicyEgressRule": "1 ports NetworkPolicyPort*, 2 to NetworkPolicyPeer*",
    "NetworkPolicyIngressRule": "1 ports NetworkPolicyPort*, 2 from NetworkPolicyPeer*",
    "NetworkPolicyPeer": "1 podSelector LabelSelector, 2 namespaceSelector LabelSelector, 3 ipBlock IPBlock",
    "NetworkPolicyPort": "1 protocol?, 2 port? IntOrString, 3 endPort? int",
    "NetworkPolicySpec": (
        "1 podSelector LabelSelector, 2 ingress NetworkPolicyIngressRule*, 3 egress NetworkPolicyEgressRule*, 4 "
        "policyTypes string*"
    ),
    "ServiceBackendPort": "1 name, 2 number int",
    # coordination
    "Lease": "1 metadata ObjectMeta, 2 spec LeaseSpec",
    "LeaseSpec": (
        "1 holderIdentity?, 2 leaseDurationSeconds? int, 3 acquireTime Time, 4 renewTime Time, 5 "
        "leaseTransitions? int, 6 strategy?, 7 preferredHolder?"
    ),
    # rbac
    "AggregationRule": "1 clusterRoleSelectors LabelSelector*",
    "ClusterRole": "1 metadata ObjectMeta, 2 rules PolicyRule*, 3 aggregationRule AggregationRule",
    "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef",
    "PolicyRule": (
        "1 verbs string*, 2 apiGroups string*, 3 resources string*, 4 resourceNames string*, 5 nonResourceURLs string*"
    ),
    "Role": "1 metadata ObjectMeta, 2 rules PolicyRule*",
    "RoleBinding": "1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef",
    "RoleRef": "1 apiGroup?, 2 kind?, 3 name?",
    "Subject": "1 kind?, 2 apiGroup, 3 name?, 4 namespace",
    # authorization
    "FieldSelectorAttributes": "1 rawSelector, 2 requirements LabelSelectorRequirement*",
    "LabelSelectorAttributes": "1 rawSelector, 2 requirements LabelSelectorRequirement*",
    "LocalSubjectAccessReview": (
        "1 metadata ObjectMeta, 2 spec SubjectAccessReviewSpec, 3 status SubjectAccessReviewStatus"
    ),
    "NonResourceAttributes": "1 path, 2 verb",
    "NonResourceRule": "1 verbs string*, 2 nonResourceURLs string*",
    "ResourceAttributes": (
        "1 namespace, 2 verb, 3 group, 4 version, 5 resource, 6 subresource, 7 name, 8 fieldSelector "
        "FieldSelectorAttributes, 9 labelSelector LabelSelectorAttributes"
    ),
    "ResourceRule": "1 verbs string*, 2 apiGroups string*, 3 resources string*, 4 resourceNames string*",
    "SelfSubjectAccessReview": (
        "1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec, 3 status SubjectAccessReviewStatus"
    ),
    "SelfSubjectAccessReviewSpec": (
        "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes"
    ),
    "SelfSubjectRulesReview": (
        "1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec, 3 status SubjectRulesReviewStatus"
    ),
    "SelfSubjectRulesReviewSpec": "1 namespace",
    "SubjectAccessReview": (
        "1 metadata ObjectMeta, 2 spec SubjectAccessReviewSpec, 3 status SubjectAccessReviewStatus"
    ),
    "SubjectAccessReviewSpec": (
        "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes, 3 user, 4 groups "
        "string*, 5 extra Strings{}, 6 uid"
    ),
    "SubjectAccessReviewStatus": "1 allowed? bool, 2 reason, 3 evaluationError, 4 denied bool",
    "SubjectRulesReviewStatus": (
        "1 resourceRules ResourceRule*, 2 nonResourceRules NonResourceRule*, 3 incomplete? bool, 4 evaluationError"
    ),
    # authentication
    "BoundObjectReference": "1 kind, 2 apiVersion, 3 name, 4 uid",
    "SelfSubjectReview": "1 metadata ObjectMeta, 2 status SelfSubjectReviewStatus",
    "SelfSubjectReviewStatus": "1 userInfo UserInfo",
    "TokenRequest": "1 metadata ObjectMeta, 2 spec TokenRequestSpec, 3 status TokenRequestStatus",
    "TokenRequestSpec": (
        "1 audiences string*, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds? int, 5 attestations string*"
    ),
    "TokenRequestStatus": "1 token?, 2 expirationTimestamp Time",
    "TokenReview": "1 metadata ObjectMeta, 2 spec TokenReviewSpec, 3 status TokenReviewStatus",
    "TokenReviewSpec": "1 token, 2 audiences string*",
    "TokenReviewStatus": "1 authenticated bool, 2 user UserInfo, 3 error, 4 audiences string*",
    "UserInfo": "1 username, 2 uid, 3 groups string*, 4 extra Strings{}",
    # autoscaling
    "Scale": "1 metadata ObjectMeta, 2 spec ScaleSpec, 3 status ScaleStatus",
    "ScaleSpec": "1 replicas int",
    "ScaleStatus": "1 replicas? int, 2 selector",
}
