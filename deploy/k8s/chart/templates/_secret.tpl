{{/*
What the chart makes up, once in a rendering and once in a release: what the cluster has already is kept. A key is there
where its credential has no Secret of its own.
*/}}
{{- define "pmd.generated" -}}
{{- if not (hasKey .Values "_generated") -}}
{{- $there := (lookup "v1" "Secret" .Release.Namespace (include "pmd.name" .)).data | default dict -}}
{{- $made := dict -}}
{{- $wanted := list "token" -}}
{{- if .Values.postgres.enabled }}{{ $wanted = concat $wanted (list "postgresPassword") }}{{ end -}}
{{- if .Values.redis.enabled }}{{ $wanted = concat $wanted (list "redisPassword") }}{{ end -}}
{{- if eq .Values.memory.index "weaviate" }}{{ $wanted = append $wanted "weaviateApiKey" }}{{ end -}}
{{- range $wanted -}}
{{- $one := index $.Values.credentials . -}}
{{- if not $one.existingSecret -}}
{{- $_ := set $made $one.key (index $there $one.key | default (randAlphaNum 40 | b64enc)) -}}
{{- end -}}
{{- end -}}
{{- $c := .Values.credentials -}}
{{- if and .Values.postgres.enabled (not $c.databaseUrl.existingSecret) (not $c.postgresPassword.existingSecret) -}}
{{- $_ := set $made $c.databaseUrl.key (printf "postgresql+psycopg://pmd:%s@%s-postgres:5432/pmd" (index $made $c.postgresPassword.key | b64dec) (include "pmd.name" .) | b64enc) -}}
{{- end -}}
{{- if and .Values.redis.enabled (not $c.redisUrl.existingSecret) (not $c.redisPassword.existingSecret) -}}
{{- $_ := set $made $c.redisUrl.key (printf "redis://:%s@%s-redis:6379/0" (index $made $c.redisPassword.key | b64dec) (include "pmd.name" .) | b64enc) -}}
{{- end -}}
{{- $_ := set .Values "_generated" (toYaml $made) -}}
{{- end -}}
{{- index .Values "_generated" -}}
{{- end }}

{{/* Changes when a credential does, so that pods are replaced, and says nothing about it. */}}
{{- define "pmd.generatedSum" -}}
{{- include "pmd.generated" . | sha256sum -}}
{{- end }}
