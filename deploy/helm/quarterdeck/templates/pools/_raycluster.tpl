{{/* The file QUARTERDECK_POOLS: pools with the RayCluster that the controller makes and sizes for each. */}}
{{- define "quarterdeck.pools" -}}
pools:
  {{- range $pool := .Values.pools }}
  - name: {{ $pool.name }}
    namespace: {{ $.Release.Namespace }}
    object: {{ include "quarterdeck.fullname" $ }}-{{ $pool.name }}
    {{- with $pool.project }}
    project: {{ . }}
    {{- end }}
    {{- if hasKey $pool "topology" }}
    topology:
      {{- toYaml $pool.topology | nindent 6 }}
    {{- end }}
    groups:
      {{- range $group := $pool.groups }}
      - name: {{ $group.name }}
        accelerator: {{ $group.accelerator | default "cpu" | quote }}
        slots: {{ $group.slots }}
        min_replicas: {{ $group.minReplicas | default 0 }}
        max_replicas: {{ $group.maxReplicas }}
        spot: {{ $group.spot | default false }}
        {{- with $group.idleAfter }}
        idle_after: {{ . }}
        {{- end }}
        {{- with $group.cpus }}
        cpus: {{ . }}
        {{- end }}
        {{- with $group.memory }}
        memory: {{ . }}
        {{- end }}
        {{- with $group.labels }}
        labels:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      {{- end }}
    template:
      {{- include "quarterdeck.rayCluster" (dict "root" $ "pool" $pool) | nindent 6 }}
  {{- end }}
{{- end -}}

{{- define "quarterdeck.rayCluster" -}}
{{- $api := include "quarterdeck.apiUrl" .root -}}
{{- $defaults := .root.Values.poolDefaults -}}
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  name: {{ include "quarterdeck.fullname" .root }}-{{ .pool.name }}
  namespace: {{ .root.Release.Namespace }}
  labels: # no versions: the controller says TemplateChanged when a template has changed
    {{- include "quarterdeck.selector" (dict "root" .root "component" "pools") | nindent 4 }}
    quarterdeck.io/cluster: {{ .pool.name }}
  annotations: # the agent starts Ray itself
    ray.io/overwrite-container-cmd: "true"
spec:
  rayVersion: {{ .root.Values.kuberay.rayVersion | quote }}
  enableInTreeAutoscaling: false
  headGroupSpec:
    rayStartParams:
      num-cpus: "0"
      port: "6379"
    template:
      {{- $head := include "quarterdeck.poolValues" (list $defaults (dict "accelerator" "cpu") $defaults.head (.pool.head | default dict)) | fromYaml }}
      {{- $arguments := list "--url" $api "--cluster" .pool.name "--slots" "0" "--ray-port" "6379" "--ray-token-file" "/etc/quarterdeck/keys/ray" }}
      {{- include "quarterdeck.poolPod" (dict "root" .root "pool" .pool "values" $head "name" "ray-head" "group" "head" "arguments" $arguments) | nindent 6 }}
  workerGroupSpecs:
    {{- range $group := .pool.groups }}
    - groupName: {{ $group.name }}
      rayStartParams: {}
      template:
        {{- $values := include "quarterdeck.poolValues" (list $defaults $group) | fromYaml }}
        {{- $arguments := list "--join" $api "--only-join" "--cluster" $.pool.name "--accelerator" ($values.accelerator | default "cpu") "--slots" ($values.slots | toString) }}
        {{- include "quarterdeck.poolPod" (dict "root" $.root "pool" $.pool "values" $values "name" "ray-worker" "group" $group.name "arguments" $arguments) | nindent 8 }}
    {{- end }}
{{- end -}}

{{/* (list DEFAULTS OWN…): own values over defaults; lists are joined. As YAML. */}}
{{- define "quarterdeck.poolValues" -}}
{{- $values := dict -}}
{{- range $layer := . -}}
{{- $lists := dict -}}
{{- range $name := list "tolerations" "extraEnv" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" -}}
{{- $_ := set $lists $name (concat (index $values $name | default list) (index $layer $name | default list)) -}}
{{- end -}}
{{- $values = mergeOverwrite $values (deepCopy $layer) $lists -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{- define "quarterdeck.poolPod" -}}
metadata:
  labels:
    {{- include "quarterdeck.selector" (dict "root" .root "component" "pools") | nindent 4 }}
    quarterdeck.io/cluster: {{ .pool.name }}
    quarterdeck.io/group: {{ .group }}
    {{- with merge (dict) (.values.podLabels | default dict) .root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "quarterdeck.podBase" (dict "root" .root "component" "pools" "values" .values) | nindent 2 }}
  {{- include "quarterdeck.agentPod" (merge (dict "pool" true "keys" (list "agent" "ray")) .) | nindent 2 }}
{{- end -}}
