{{/*
The pod of a component. dict:
  root, component
  image     key of values.image
  user      numeric user and group
  args      list; the image's own entry point begins it
  command   list; replaces the entry point
  env       map of settings; without a secret
  credentials  list of keys of values.credentials that are mounted as files
  project   whether this is a process of ours, with its settings
  runs      whether it mounts the folder of runs
  state     where its own folder is mounted; a claim of that name where `claim`, else scratch
  stateSize size of the scratch
  shm       size of /dev/shm
  port      name to number, of what it listens on
  probes    YAML of its probes
  grace     seconds between SIGTERM and SIGKILL
  wait      seconds that it goes on before SIGTERM, until nobody is sent to it any more
  threads   whether its libraries start a thread a CPU
  restart   restart policy, where it is not Always
  account   service account, where it is not the release's, which has no rights
  container name of the container, where it is not the component's
  beside    component on whose node it must be: one, as pods of two are never on it by Kubernetes's reckoning
  near      component on whose node it is where that can be
  resources requests and limits, where the component has no values
*/}}
{{- define "pmd.pod" -}}
{{- $placed := include "pmd.placement" . | fromYaml -}}
{{- $resources := .resources | default (index .root.Values .component).resources -}}
{{- $container := .container | default .component -}}
metadata:
  labels:
    {{- include "pmd.selector" . | nindent 4 }}
    {{- with $placed.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    {{- if and .credentials .root.Values.credentials.generate }}
    checksum/secret: {{ include "pmd.generatedSum" .root }}
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ $container }}
    {{- with $placed.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ .account | default (include "pmd.name" .root) }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "pmd.podSecurity" .user | nindent 4 }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with $placed.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $placed.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $placed.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $placed.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- $affinity := $placed.affinity | default dict -}}
  {{- with .beside }}
  {{- $labels := include "pmd.selector" (dict "root" $.root "component" .) | fromYaml }}
  {{- $near := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) }}
  {{- $affinity = mergeOverwrite $affinity (dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $near))) }}
  {{- end }}
  {{- with .near }}
  {{- $labels := include "pmd.selector" (dict "root" $.root "component" .) | fromYaml }}
  {{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) }}
  {{- $near := dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term)) }}
  {{- $affinity = merge $affinity (dict "podAffinity" $near) }}
  {{- end }}
  {{- with $affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $placed.spreadOver }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{ include "pmd.selector" $ | nindent 10 }}
  {{- end }}
  containers:
    - name: {{ $container }}
      image: {{ include "pmd.image" (dict "root" .root "name" .image) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- with .command }}
      command: {{ toJson . }}
      {{- end }}
      {{- with .args }}
      args: {{ toJson . }}
      {{- end }}
      {{- if or .project .env .rawEnv .threads }}
      env:
        {{- if .project }}
        {{- include "pmd.env" (dict "PMD_HOST" "0.0.0.0" "PMD_STATE_DIR" .state "PMD_DATA_URI" "file:///runs" "PMD_SECRETS_DIR" "/run/secrets/pmd") | trim | nindent 8 }}
        {{- end }}
        {{- with .env }}{{ include "pmd.env" . | trim | nindent 8 }}{{ end }}
        {{- with .rawEnv }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- if .threads }}
        - name: OMP_NUM_THREADS
          valueFrom:
            resourceFieldRef: {resource: limits.cpu, containerName: {{ $container }}, divisor: "1"}
        {{- end }}
      {{- end }}
      {{- with .port }}
      ports:
        {{- range $name, $number := . }}
        - name: {{ $name }}
          containerPort: {{ $number }}
          protocol: TCP
        {{- end }}
      {{- end }}
      {{- with .wait }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ . | quote }}]
      {{- end }}
      {{- with .probes }}{{ . | nindent 6 }}{{ end }}
      resources: {{ toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "pmd.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: state, mountPath: {{ .state }}}
        {{- if .credentials }}
        - {name: secrets, mountPath: {{ .secretsAt | default "/run/secrets/pmd" }}, readOnly: true}
        {{- end }}
        {{- if .runs }}
        - {name: runs, mountPath: /runs}
        {{- end }}
        {{- if .shm }}
        - {name: shm, mountPath: /dev/shm}
        {{- end }}
        {{- with .extraMounts }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- with $placed.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ index $resources.limits "ephemeral-storage" }}}
    {{- if not .claim }}
    - name: state
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- if .credentials }}
    {{- include "pmd.secretVolume" (dict "root" .root "credentials" .credentials) | nindent 4 }}
    {{- end }}
    {{- if .runs }}
    - name: runs
      persistentVolumeClaim:
        claimName: {{ .root.Values.storage.runs.existingClaim | default (printf "%s-runs" (include "pmd.name" .root)) }}
    {{- end }}
    {{- with .shm }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ . }}}
    {{- end }}
    {{- with .extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- with $placed.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{/* Probes of a service of ours. It answers /healthz at once, and loads what it needs in the background. */}}
{{- define "pmd.httpProbes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 36
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 2
{{- end }}

{{/*
Probes of a process without a port: its pulse. The probe shares the CPU of what it looks at, and a full node gives that
little: one that can't be asked in a minute is not dead yet.
*/}}
{{- define "pmd.pulseProbes" -}}
{{- $probe := list "python" "-P" "-m" "pmd.gateway.controller.pulse" . -}}
livenessProbe:
  exec: {command: {{ toJson $probe }}}
  periodSeconds: 60
  timeoutSeconds: 60
  failureThreshold: 3
readinessProbe:
  exec: {command: {{ toJson (append $probe "--ready") }}}
  periodSeconds: 15
  timeoutSeconds: 30
  failureThreshold: 2
{{- end }}

{{/* dict root, component, size: the claim of a StatefulSet for each of its pods. No label of a release: it can't change. */}}
{{- define "pmd.stateClaim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: state
    labels: {{ include "pmd.selector" . | nindent 6 }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .root.Values.storage.stateStorageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .size }}
{{- end }}

{{/* dict root, component, ports, headless, annotations */}}
{{- define "pmd.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "pmd.name" .root }}-{{ .component }}
  labels: {{ include "pmd.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: ClusterIP
  {{- if .headless }}
  clusterIP: None
  publishNotReadyAddresses: true # who starts or loads says so itself, and is waited for
  {{- end }}
  selector: {{ include "pmd.selector" . | nindent 4 }}
  ports:
    {{- range $name, $number := .ports }}
    - name: {{ $name }}
      port: {{ $number }}
      targetPort: {{ $name }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* dict root, component: lets a drain take one pod at a time, those that are not ready at once. */}}
{{- define "pmd.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "pmd.name" .root }}-{{ .component }}
  labels: {{ include "pmd.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{ include "pmd.selector" . | nindent 6 }}
{{- end }}

{{/* dict root, component, replicas, size, serviceName, pod: a StatefulSet whose pods keep a folder each. */}}
{{- define "pmd.statefulSet" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "pmd.name" .root }}-{{ .component }}
  labels: {{ include "pmd.labels" . | nindent 4 }}
spec:
  replicas: {{ .replicas | default 1 }}
  serviceName: {{ include "pmd.name" .root }}-{{ .component }}
  podManagementPolicy: Parallel
  updateStrategy: {type: RollingUpdate}
  selector:
    matchLabels: {{ include "pmd.selector" . | nindent 6 }}
  template:
    {{- .pod | nindent 4 }}
  volumeClaimTemplates:
    {{- include "pmd.stateClaim" . | nindent 4 }}
{{- end }}

{{/* What the kubelet mounts for a pod that may ask the cluster, in a volume of the container that does. */}}
{{- define "pmd.accountVolume" -}}
name: cluster
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}
