{{/* Names and labels. */}}

{{- define "quarterdeck.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: pods of pools add their own parts, and a label holds 63. */}}
{{- define "quarterdeck.fullname" -}}
{{- $name := include "quarterdeck.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" . "component" NAME): what selects a component's pods. Never changes. */}}
{{- define "quarterdeck.selector" -}}
app.kubernetes.io/name: {{ include "quarterdeck.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* (dict "root" . "component" NAME): of every object. */}}
{{- define "quarterdeck.labels" -}}
{{ include "quarterdeck.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "root" . "component" NAME "name" OBJECT "labels" MAP "annotations" MAP): metadata of an object. */}}
{{- define "quarterdeck.metadata" -}}
name: {{ .name | default (printf "%s-%s" (include "quarterdeck.fullname" .root) .component) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "quarterdeck.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (dict "root" . "image" control|worker): REGISTRY/REPOSITORY:TAG, or @DIGEST. */}}
{{- define "quarterdeck.image" -}}
{{- $image := index .root.Values.image .image -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- if not $registry -}}
{{- fail (include "quarterdeck.say.registry" .root) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s/%s@%s" $registry $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s/%s:%s" $registry $image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" . "component" NAME "values" VALUES) */}}
{{- define "quarterdeck.serviceAccountName" -}}
{{- $account := (.values | default (index .root.Values .component)).serviceAccount | default dict -}}
{{- $account.name | default (printf "%s-%s" (include "quarterdeck.fullname" .root) .component) -}}
{{- end -}}

{{- define "quarterdeck.apiUrl" -}}
http://{{ include "quarterdeck.fullname" . }}-api.{{ .Release.Namespace }}.svc:{{ .Values.api.service.port }}
{{- end -}}

{{- define "quarterdeck.gatewayUrl" -}}
http://{{ include "quarterdeck.fullname" . }}-gateway.{{ .Release.Namespace }}.svc:{{ .Values.gateway.service.port }}
{{- end -}}
