{{/* What pods have in common. All of them satisfy Pod Security `restricted`. */}}

{{/* (dict "user" UID): of a pod. The group of mounted secrets is the process's, so that it can read them. */}}
{{- define "quarterdeck.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .user | default 10001 }}
runAsGroup: {{ .user | default 10001 }}
fsGroup: {{ .user | default 10001 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* (dict "root" . "component" NAME "values" VALUES "podLabels" MAP "annotations" MAP): of a pod template. */}}
{{- define "quarterdeck.podMetadata" -}}
{{- $values := .values -}}
labels:
  {{- include "quarterdeck.selector" . | nindent 2 }}
  {{- with .podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with merge (dict) ($values.podLabels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) ($values.podAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
(dict "root" . "component" NAME "values" VALUES "user" UID "talks" BOOL): the first lines of a pod's
spec. "talks": to Kubernetes.
*/}}
{{- define "quarterdeck.podBase" -}}
serviceAccountName: {{ include "quarterdeck.serviceAccountName" . }}
automountServiceAccountToken: {{ .talks | default false }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "quarterdeck.podSecurityContext" . | nindent 2 }}
{{- with .values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "quarterdeck.selector" . | fromYaml)) }}
  {{- range .values.topologySpreadConstraints }}
  {{- toYaml (list (merge (dict) . $own)) | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* (dict "root" . "values" VALUES "image" control|worker): the first lines of a container, after its name. */}}
{{- define "quarterdeck.containerBase" -}}
{{ if .values.image -}}
image: {{ .values.image }}
{{- else -}}
image: {{ include "quarterdeck.image" . }}
{{- end }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with .values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Environment of whatever opens the database and the artifact store. */}}
{{- define "quarterdeck.storeEnv" -}}
- name: QUARTERDECK_HOME # inside the volume, which is root's: a home is private to its process
  value: /var/lib/quarterdeck/home
{{ include "quarterdeck.databaseEnv" . }}
- name: QUARTERDECK_ARTIFACTS
  value: {{ include "quarterdeck.artifactsUri" . | quote }}
{{- if .Values.artifacts.existingSecret }}
- name: QUARTERDECK_ARTIFACTS_OPTIONS_FILE
  value: /etc/quarterdeck/artifacts/options
{{- end }}
{{- end -}}

{{- define "quarterdeck.databaseEnv" -}}
{{- if .Values.postgresql.enabled -}}
- name: QUARTERDECK_DATABASE_URL
  value: postgresql+psycopg://quarterdeck@{{ include "quarterdeck.fullname" . }}-postgresql:5432/quarterdeck
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.postgresql.existingSecret }}
      key: {{ .Values.postgresql.passwordKey }}
{{- else -}}
- name: QUARTERDECK_DATABASE_URL_FILE
  value: /etc/quarterdeck/database/url
{{- end -}}
{{- end -}}

{{- define "quarterdeck.artifactsUri" -}}
{{- if .Values.artifacts.persistence.enabled -}}
file://{{ .Values.artifacts.persistence.mountPath }}
{{- else -}}
{{ .Values.artifacts.uri }}
{{- end -}}
{{- end -}}

{{/* (dict "root" . "values" VALUES "keys" LIST "database" BOOL "options" BOOL "artifacts" BOOL): of a container. Keys: master, admin, agent; options: of the artifact store. */}}
{{- define "quarterdeck.mounts" -}}
- name: home
  mountPath: /var/lib/quarterdeck
- name: tmp
  mountPath: /tmp
{{- if .keys }}
- name: keys
  mountPath: /etc/quarterdeck/keys
  readOnly: true
{{- end }}
{{- if and .database .root.Values.database.existingSecret }}
- name: database
  mountPath: /etc/quarterdeck/database
  readOnly: true
{{- end }}
{{- if and .options .root.Values.artifacts.existingSecret }}
- name: artifacts-options
  mountPath: /etc/quarterdeck/artifacts
  readOnly: true
{{- end }}
{{- if and .artifacts .root.Values.artifacts.persistence.enabled }}
- name: artifacts
  mountPath: {{ .root.Values.artifacts.persistence.mountPath }}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts; each Secret gives its named entry alone. */}}
{{- define "quarterdeck.volumes" -}}
- name: home
  {{- with .homeSize }}
  emptyDir:
    sizeLimit: {{ . }}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: tmp
  emptyDir: {}
{{- if .keys }}
- name: keys
  secret:
    secretName: {{ .root.Values.keys.existingSecret }}
    defaultMode: 288 # 0440, which YAML 1.2 reads as 440
    items:
      {{- range .keys }}
      - key: {{ index $.root.Values.keys (printf "%sKey" .) }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- if and .database .root.Values.database.existingSecret }}
- name: database
  secret:
    secretName: {{ .root.Values.database.existingSecret }}
    defaultMode: 288 # 0440, which YAML 1.2 reads as 440
    items:
      - key: {{ .root.Values.database.urlKey }}
        path: url
{{- end }}
{{- if and .options .root.Values.artifacts.existingSecret }}
- name: artifacts-options
  secret:
    secretName: {{ .root.Values.artifacts.existingSecret }}
    defaultMode: 288 # 0440, which YAML 1.2 reads as 440
    items:
      - key: {{ .root.Values.artifacts.optionsKey }}
        path: options
{{- end }}
{{- if and .artifacts .root.Values.artifacts.persistence.enabled }}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ .root.Values.artifacts.persistence.existingClaim | default (printf "%s-artifacts" (include "quarterdeck.fullname" .root)) }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "values" VALUES "port" NAME "ready" PATH): three HTTP probes, whose times values.probes changes. A start may take 5 minutes. */}}
{{- define "quarterdeck.probes" -}}
{{- $times := .values.probes | default dict -}}
{{- range $name, $default := dict
    "startup" (dict "path" "/healthz" "periodSeconds" 2 "timeoutSeconds" 3 "failureThreshold" 150)
    "readiness" (dict "path" "/readyz" "periodSeconds" 5 "timeoutSeconds" 3 "failureThreshold" 2)
    "liveness" (dict "path" "/healthz" "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) }}
{{ $name }}Probe:
  httpGet:
    path: {{ $default.path }}
    port: {{ $.port }}
  {{- toYaml (merge (dict) (index $times $name | default dict) (omit $default "path")) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An init container: pods start once the database has the schema of their version. */}}
{{- define "quarterdeck.waitForSchema" -}}
- name: wait-for-schema
  {{- include "quarterdeck.containerBase" (merge (dict "image" "control") .) | nindent 2 }}
  command: [quarterdeck, db, wait, --timeout, {{ .root.Values.migration.waitSeconds | quote }}]
  env:
    {{- include "quarterdeck.storeEnv" .root | nindent 4 }}
    {{- with .values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumeMounts:
    {{- include "quarterdeck.mounts" (dict "root" .root "values" (dict "extraVolumeMounts" .values.extraVolumeMounts) "database" true "options" true) | nindent 4 }}
{{- end -}}

{{/* Endpoint and headers of OpenTelemetry. */}}
{{- define "quarterdeck.tracingEnv" -}}
{{- if .Values.tracing.endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .Values.tracing.endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: http/protobuf
- name: OTEL_SERVICE_NAME
  value: {{ include "quarterdeck.fullname" . }}-gateway
{{- with .Values.tracing.existingSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.tracing.headersKey }}
{{- end }}
{{- end -}}
{{- end -}}
