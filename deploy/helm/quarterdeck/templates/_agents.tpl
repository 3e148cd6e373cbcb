{{/* Pods that run an agent with Ray: static workers, and the pods of pools. */}}

{{/*
(dict "root" . "values" VALUES "name" CONTAINER "arguments" LIST): the container. It has no liveness
probe of its own making: an agent ends by itself when its Ray dies, and must outlive an api that is away.
*/}}
{{- define "quarterdeck.agentContainer" -}}
{{- $values := merge (dict "resources" (include "quarterdeck.agentResources" . | fromYaml)) .values -}}
- name: {{ .name }}
  {{- include "quarterdeck.containerBase" (dict "root" .root "values" $values "image" "worker") | nindent 2 }}
  command: [quarterdeck, agent]
  args:
    {{- toYaml .arguments | nindent 4 }}
    - --node-ip
    - $(POD_IP)
    - --stop-ray
    {{- if .pool }}
    - --label
    - pod=$(POD_NAME)
    {{- end }}
    {{- range $name, $value := .values.labels }}
    - --label
    - {{ printf "%s=%s" $name $value | quote }}
    {{- end }}
  env:
    - name: POD_IP
      valueFrom:
        fieldRef:
          fieldPath: status.podIP
    - name: QUARTERDECK_HOME
      value: /var/lib/quarterdeck/home
    - name: QUARTERDECK_AGENT_KEY_FILE
      value: /etc/quarterdeck/keys/agent
    - name: HOME
      value: /var/lib/quarterdeck
    {{- if .pool }}
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    # For the container wait-gcs-ready, which KubeRay makes of this one; the agent passes none of it on.
    - name: RAY_AUTH_MODE
      value: token
    - name: RAY_AUTH_TOKEN_PATH
      value: /etc/quarterdeck/keys/ray
    {{- end }}
    {{- with .values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  readinessProbe:
    exec:
      command: [python, -m, quarterdeck.processes.health, agent]
    initialDelaySeconds: 5
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  {{- if .pool }}
  livenessProbe: # KubeRay would put one of its own here that asks for Ray's dashboard
    exec:
      command: [test, -d, /var/lib/quarterdeck]
    periodSeconds: 60
    timeoutSeconds: 5
  {{- end }}
  volumeMounts:
    {{- include "quarterdeck.mounts" (dict "root" .root "values" .values "keys" true "artifacts" true) | nindent 4 }}
    - name: shm
      mountPath: /dev/shm
{{- end -}}

{{/* With an accelerator, as many of its resource as there are slots, unless the values say otherwise. */}}
{{- define "quarterdeck.agentResources" -}}
{{- $resources := deepCopy (.values.resources | default dict) -}}
{{- if and .values.accelerator (ne .values.accelerator "cpu") .values.acceleratorResource -}}
{{- $_ := set $resources "limits" (merge (dict) ($resources.limits | default dict) (dict .values.acceleratorResource (.values.slots | int))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* A shared process namespace: its first process reaps what Ray's daemons leave behind. */}}
{{- define "quarterdeck.agentPod" -}}
shareProcessNamespace: true
containers:
  {{- include "quarterdeck.agentContainer" . | nindent 2 }}
volumes:
  {{- include "quarterdeck.volumes" (dict "root" .root "values" .values "keys" (.keys | default (list "agent")) "artifacts" true "homeSize" .values.homeSize) | nindent 2 }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ .values.shmSize }}
{{- end -}}
