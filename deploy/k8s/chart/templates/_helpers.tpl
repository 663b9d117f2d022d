{{/* Names, labels, images, settings. */}}

{{- define "pmd.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* dict root, component: labels that never change, by which objects find pods. */}}
{{- define "pmd.selector" -}}
app.kubernetes.io/name: pmd
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* dict root, component */}}
{{- define "pmd.labels" -}}
{{ include "pmd.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* dict root, name: an image of the project, whose tag is the release's, or another's, which brings its own. */}}
{{- define "pmd.image" -}}
{{- $name := index .root.Values.image .name -}}
{{- if not (or (contains "@" $name) (contains ":" $name)) -}}
{{- $name = printf "%s:%s" $name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- if .root.Values.image.registry }}{{ .root.Values.image.registry | trimSuffix "/" }}/{{ end }}{{ $name }}
{{- end }}

{{/* dict root, service */}}
{{- define "pmd.port" -}}
{{- index (dict "gateway" 8700 "rollout" 8701 "replica" 8701 "verifier" 8702 "memory" 8703 "trainer" 8704 "redis" 6379 "postgres" 5432 "weaviate" 8080) . -}}
{{- end }}

{{/* dict root, component: where a service of the release listens. */}}
{{- define "pmd.url" -}}
http://{{ include "pmd.name" .root }}-{{ .component }}:{{ include "pmd.port" .component }}
{{- end }}

{{/* What settings are in files: the setting by the key of `credentials`. */}}
{{- define "pmd.secretSettings" -}}
token: PMD_TOKEN
databaseUrl: PMD_DATABASE_URL
memoryDatabaseUrl: PMD_MEMORY_DATABASE_URL
jobsUrl: PMD_JOBS_URL
redisUrl: PMD_REDIS_URL
weaviateApiKey: PMD_WEAVIATE_API_KEY
generatorKey: PMD_MEMORY_GENERATOR_KEY
embedderKey: PMD_MEMORY_EMBEDDER_KEY
postgresPassword: postgres-password
redisPassword: redis-password
{{- end }}

{{/* dict root, credential: name of the Secret; empty where there is none. */}}
{{- define "pmd.secretName" -}}
{{- $one := index .root.Values.credentials .credential -}}
{{- if $one.existingSecret -}}
{{ $one.existingSecret }}
{{- else if and .root.Values.credentials.generate (not (has .credential (list "generatorKey" "embedderKey"))) -}}
{{ include "pmd.name" .root }}
{{- end -}}
{{- end }}

{{/* dict root, credentials: the volume that has each of them as a file named as its setting. */}}
{{- define "pmd.secretVolume" -}}
{{- $files := include "pmd.secretSettings" . | fromYaml -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range .credentials }}
      {{- $credential := . | replace "memoryDatabaseUrl" "databaseUrl" | replace "jobsUrl" "databaseUrl" }}
      {{- $name := include "pmd.secretName" (dict "root" $.root "credential" $credential) }}
      {{- if $name }}
      - secret:
          name: {{ $name }}
          items:
            - key: {{ (index $.root.Values.credentials $credential).key }}
              path: {{ index $files . }}
      {{- end }}
      {{- end }}
{{- end }}

{{/* A map of environment variables as a container lists them. */}}
{{- define "pmd.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "pmd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The user of a pod. */}}
{{- define "pmd.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* dict root, component: `pods` with the component's own `pod` over it. */}}
{{- define "pmd.placement" -}}
{{- $own := (index .root.Values .component | default dict).pod | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.pods) (deepCopy $own) | toYaml -}}
{{- end }}
