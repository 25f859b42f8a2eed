"""Field numbers of Kubernetes' messages (core/v1, apps/v1, meta/v1), as far as we read them.

Notation: "number name kind", kind being a message below or string (where left out), int, bool, bytes, Time,
Quantity, IntOrString, Strings (a list of them in a message of its own), `unsupported` (refused by name, unless empty)
or `skip`. `name?` is a pointer in Go: there as soon as it is written, even with 0 or ""; others are absent when empty.
`kind*` is a list, `kind{}` a map with string keys, and the name `<` an embedded message whose fields stand in its
parent.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudlink.hub.api.protobuf_access import ACCESS_KINDS, ACCESS_MESSAGES

ROOTS: Mapping[str, str] = {
    kind: kind
    for kind in (
        *("Namespace", "ConfigMap", "Secret", "Service", "PersistentVolumeClaim", "Pod", "Event"),
        *("Deployment", "ReplicaSet", "DeleteOptions"),
        *ACCESS_KINDS,
    )
}

_TEMPLATE = "1 metadata ObjectMeta, 2 spec PodSpec"

MESSAGES: Mapping[str, str] = {
    **ACCESS_MESSAGES,
    # runtime and meta
    "Unknown": "1 < TypeMeta, 2 raw bytes, 3 contentEncoding, 4 contentType",
    "TypeMeta": "1 apiVersion, 2 kind",
    "ObjectMeta": "1 name, 2 generateName, 3 namespace, 4 selfLink, 5 uid, 6 resourceVersion, 7 generation int,"
    " 8 creationTimestamp Time, 9 deletionTimestamp Time, 10 deletionGracePeriodSeconds? int, 11 labels string{},"
    " 12 annotations string{}, 13 ownerReferences OwnerReference*, 14 finalizers string*, 17 managedFields skip",
    "OwnerReference": "1 kind, 3 name, 4 uid, 5 apiVersion, 6 controller bool, 7 blockOwnerDeletion bool",
    "LabelSelector": "1 matchLabels string{}, 2 matchExpressions LabelSelectorRequirement*",
    "LabelSelectorRequirement": "1 key, 2 operator, 3 values string*",
    "DeleteOptions": "1 gracePeriodSeconds? int, 2 preconditions Preconditions, 3 orphanDependents? bool,"
    " 4 propagationPolicy, 5 dryRun string*, 6 ignoreStoreReadError bool",
    "Preconditions": "1 uid, 2 resourceVersion",
    # core
    "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status skip",
    "NamespaceSpec": "1 finalizers string*",
    "ConfigMap": "1 metadata ObjectMeta, 2 data string{}, 3 binaryData bytes{}, 4 immutable? bool",
    "Secret": "1 metadata ObjectMeta, 2 data bytes{}, 3 type, 4 stringData string{}, 5 immutable? bool",
    "Service": "1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status skip",
    "ServiceSpec": "1 ports ServicePort*, 2 selector string{}, 3 clusterIP, 4 type, 5 externalIPs string*,"
    " 7 sessionAffinity, 8 loadBalancerIP, 9 loadBalancerSourceRanges string*, 10 externalName,"
    " 11 externalTrafficPolicy, 12 healthCheckNodePort int, 13 publishNotReadyAddresses bool,"
    " 14 sessionAffinityConfig unsupported, 17 ipFamilyPolicy, 18 clusterIPs string*, 19 ipFamilies string*,"
    " 20 allocateLoadBalancerNodePorts unsupported, 21 loadBalancerClass, 22 internalTrafficPolicy,"
    " 23 trafficDistribution",
    "ServicePort": "1 name, 2 protocol, 3 port int, 4 targetPort IntOrString, 5 nodePort int, 6 appProtocol",
    "Pod": f"{_TEMPLATE}, 3 status skip",
    "PodTemplateSpec": _TEMPLATE,
    "PodSpec": "1 volumes Volume*, 2 containers Container*, 3 restartPolicy, 4 terminationGracePeriodSeconds? int,"
    " 5 activeDeadlineSeconds? int, 6 dnsPolicy, 7 nodeSelector string{}, 8 serviceAccountName, 9 serviceAccount,"
    " 10 nodeName, 11 hostNetwork bool, 12 hostPID bool, 13 hostIPC bool, 14 securityContext PodSecurityContext,"
    " 15 imagePullSecrets LocalObjectReference*, 16 hostname, 17 subdomain, 18 affinity unsupported, 19 schedulerName,"
    " 20 initContainers Container*, 21 automountServiceAccountToken? bool, 22 tolerations Toleration*,"
    " 23 hostAliases HostAlias*, 24 priorityClassName, 25 priority? int, 26 dnsConfig PodDNSConfig,"
    " 27 shareProcessNamespace bool, 28 readinessGates unsupported*, 29 runtimeClassName,"
    " 30 enableServiceLinks? bool, 31 preemptionPolicy, 33 topologySpreadConstraints unsupported*,"
    " 35 setHostnameAsFQDN bool, 36 os PodOS, 37 hostUsers? bool",
    "Container": "1 name, 2 image, 3 command string*, 4 args string*, 5 workingDir, 6 ports ContainerPort*,"
    " 7 env EnvVar*, 8 resources ResourceRequirements, 9 volumeMounts VolumeMount*, 10 livenessProbe Probe,"
    " 11 readinessProbe Probe, 12 lifecycle Lifecycle, 13 terminationMessagePath, 14 imagePullPolicy,"
    " 15 securityContext SecurityContext, 16 stdin bool, 17 stdinOnce bool, 18 tty bool, 19 envFrom EnvFromSource*,"
    " 20 terminationMessagePolicy, 21 volumeDevices unsupported*, 22 startupProbe Probe,"
    " 23 resizePolicy unsupported*, 24 restartPolicy",
    "ContainerPort": "1 name, 2 hostPort int, 3 containerPort int, 4 protocol, 5 hostIP",
    "EnvVar": "1 name, 2 value, 3 valueFrom EnvVarSource",
    "EnvVarSource": "1 fieldRef ObjectFieldSelector, 2 resourceFieldRef ResourceFieldSelector,"
    " 3 configMapKeyRef KeySelector, 4 secretKeyRef KeySelector",
    "KeySelector": "1 < LocalObjectReference, 2 key, 3 optional bool",
    "LocalObjectReference": "1 name",
    "EnvFromSource": "1 prefix, 2 configMapRef EnvFromRef, 3 secretRef EnvFromRef",
    "EnvFromRef": "1 < LocalObjectReference, 2 optional bool",
    "ResourceRequirements": "1 limits Quantity{}, 2 requests Quantity{}, 3 claims unsupported*",
    "VolumeMount": "1 name, 2 readOnly bool, 3 mountPath, 4 subPath, 5 mountPropagation, 6 subPathExpr,"
    " 7 recursiveReadOnly",
    "Probe": "1 < ProbeHandler, 2 initialDelaySeconds int, 3 timeoutSeconds int, 4 periodSeconds int,"
    " 5 successThreshold int, 6 failureThreshold int, 7 terminationGracePeriodSeconds? int",
    "ProbeHandler": "1 exec ExecAction, 2 httpGet HTTPGetAction, 3 tcpSocket TCPSocketAction, 4 grpc GRPCAction",
    "ExecAction": "1 command string*",
    "HTTPGetAction": "1 path, 2 port? IntOrString, 3 host, 4 scheme, 5 httpHeaders HTTPHeader*",
    "HTTPHeader": "1 name, 2 value?",
    "TCPSocketAction": "1 port? IntOrString, 2 host",
    "Volume": "1 name, 2 < VolumeSource",
    "VolumeSource": "1 hostPath HostPathVolume, 2 emptyDir EmptyDirVolume, 6 secret SecretVolume,"
    " 7 nfs NFSVolume, 10 persistentVolumeClaim PersistentVolumeClaimVolume, 16 downwardAPI DownwardAPIVolume,"
    " 19 configMap ConfigMapVolume, 26 projected ProjectedVolume, 28 csi unsupported, 29 ephemeral unsupported",
    "GRPCAction": "1 port int, 2 service?",
    "Lifecycle": "1 postStart LifecycleHandler, 2 preStop LifecycleHandler, 3 stopSignal",
    "LifecycleHandler": "1 exec ExecAction, 2 httpGet HTTPGetAction, 3 tcpSocket unsupported, 4 sleep SleepAction",
    "SleepAction": "1 seconds? int",
    "SecurityContext": "1 capabilities Capabilities, 2 privileged? bool, 3 seLinuxOptions unsupported,"
    " 4 runAsUser? int, 5 runAsNonRoot? bool, 6 readOnlyRootFilesystem? bool, 7 allowPrivilegeEscalation? bool,"
    " 8 runAsGroup? int, 9 procMount?, 10 windowsOptions unsupported, 11 seccompProfile SeccompProfile,"
    " 12 appArmorProfile unsupported",
    "Capabilities": "1 add string*, 2 drop string*",
    "SeccompProfile": "1 type, 2 localhostProfile?",
    "PodSecurityContext": "1 seLinuxOptions unsupported, 2 runAsUser? int, 3 runAsNonRoot? bool,"
    " 4 supplementalGroups int*, 5 fsGroup? int, 6 runAsGroup? int, 7 sysctls Sysctl*, 8 windowsOptions unsupported,"
    " 9 fsGroupChangePolicy?, 10 seccompProfile SeccompProfile, 11 appArmorProfile unsupported,"
    " 12 supplementalGroupsPolicy?, 13 seLinuxChangePolicy?",
    "Sysctl": "1 name, 2 value?",
    "ObjectFieldSelector": "1 apiVersion, 2 fieldPath?",
    "ResourceFieldSelector": "1 containerName, 2 resource?, 3 divisor Quantity",
    "HostAlias": "1 ip?, 2 hostnames string*",
    "PodDNSConfig": "1 nameservers string*, 2 searches string*, 3 options PodDNSConfigOption*",
    "PodDNSConfigOption": "1 name, 2 value?",
    "PodOS": "1 name",
    "HostPathVolume": "1 path, 2 type",
    "NFSVolume": "1 server?, 2 path?, 3 readOnly bool",
    "PersistentVolumeClaimVolume": "1 claimName?, 2 readOnly bool",
    "DownwardAPIVolume": "1 items DownwardAPIVolumeFile*, 2 defaultMode? int",
    "DownwardAPIVolumeFile": "1 path?, 2 fieldRef ObjectFieldSelector, 3 resourceFieldRef ResourceFieldSelector,"
    " 4 mode? int",
    "ProjectedVolume": "1 sources VolumeProjection*, 2 defaultMode? int",
    "VolumeProjection": "1 secret ObjectProjection, 2 downwardAPI DownwardAPIProjection, 3 configMap ObjectProjection,"
    " 4 serviceAccountToken unsupported, 5 clusterTrustBundle unsupported, 6 podCertificate unsupported",
    "ObjectProjection": "1 < LocalObjectReference, 2 items KeyToPath*, 4 optional bool",
    "DownwardAPIProjection": "1 items DownwardAPIVolumeFile*",
    "PersistentVolumeClaim": "1 metadata ObjectMeta, 2 spec PersistentVolumeClaimSpec, 3 status skip",
    "PersistentVolumeClaimSpec": "1 accessModes string*, 2 resources VolumeResourceRequirements, 3 volumeName,"
    " 4 selector unsupported, 5 storageClassName?, 6 volumeMode?, 7 dataSource unsupported,"
    " 8 dataSourceRef unsupported, 9 volumeAttributesClassName?",
    "VolumeResourceRequirements": "1 limits Quantity{}, 2 requests Quantity{}",
    "EmptyDirVolume": "1 medium, 2 sizeLimit Quantity",
    "SecretVolume": "1 secretName, 2 items KeyToPath*, 3 defaultMode? int, 4 optional bool",
    "ConfigMapVolume": "1 < LocalObjectReference, 2 items KeyToPath*, 3 defaultMode? int, 4 optional bool",
    "KeyToPath": "1 key, 2 path, 3 mode? int",
    "Toleration": "1 key, 2 operator, 3 value, 4 effect, 5 tolerationSeconds? int",
    "Event": "1 metadata ObjectMeta, 2 involvedObject ObjectReference, 3 reason, 4 message, 5 source EventSource,"
    " 6 firstTimestamp Time, 7 lastTimestamp Time, 8 count int, 9 type, 10 eventTime Time, 11 series EventSeries,"
    " 12 action, 13 related ObjectReference, 14 reportingComponent, 15 reportingInstance",
    "EventSource": "1 component, 2 host",
    "EventSeries": "1 count int, 2 lastObservedTime Time",
    "ObjectReference": "1 kind, 2 namespace, 3 name, 4 uid, 5 apiVersion, 6 resourceVersion, 7 fieldPath",
    # apps
    "Deployment": "1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status skip",
    "DeploymentSpec": "1 replicas? int, 2 selector LabelSelector, 3 template PodTemplateSpec,"
    " 4 strategy DeploymentStrategy, 5 minReadySeconds int, 6 revisionHistoryLimit? int, 7 paused bool,"
    " 9 progressDeadlineSeconds? int",
    "DeploymentStrategy": "1 type, 2 rollingUpdate RollingUpdate",
    "RollingUpdate": "1 maxUnavailable? IntOrString, 2 maxSurge? IntOrString",
    "ReplicaSet": "1 metadata ObjectMeta, 2 spec ReplicaSetSpec, 3 status skip",
    "ReplicaSetSpec": "1 replicas? int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 minReadySeconds int",
}
