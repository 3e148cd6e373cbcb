{{/* What must be said before anything is made. Each sentence names the value and the remedy. */}}

{{- define "quarterdeck.say.registry" -}}
{{- $image := .Values.image -}}
image.registry is not set: no registry publishes Quarterdeck's images. Build them in a checkout of Quarterdeck, push them to a registry that your nodes pull from, and name it:
  IMAGE_REGISTRY=REGISTRY IMAGE_TAG={{ $image.control.tag | default .Chart.AppVersion }} make images
  docker push REGISTRY/{{ $image.control.repository }}:{{ $image.control.tag | default .Chart.AppVersion }}
  docker push REGISTRY/{{ $image.worker.repository }}:{{ $image.worker.tag | default .Chart.AppVersion }}
  helm upgrade --install {{ .Release.Name }} ... --set image.registry=REGISTRY
{{- end -}}

{{- define "quarterdeck.say.keys" -}}
keys.existingSecret is not set: make the installation's keys once, keep them (without the master key stored secrets are lost), and name the Secret:
  kubectl create secret generic {{ .Release.Name }}-keys -n {{ .Release.Namespace }} \
    --from-literal={{ .Values.keys.masterKey }}="$(openssl rand -base64 32 | tr '+/' '-_')" \
    --from-literal={{ .Values.keys.adminKey }}="qd_$(openssl rand -hex 32)" \
    --from-literal={{ .Values.keys.agentKey }}="qd_$(openssl rand -hex 32)" \
    --from-literal={{ .Values.keys.rayKey }}="$(openssl rand -hex 32)"
  helm upgrade --install {{ .Release.Name }} ... --set keys.existingSecret={{ .Release.Name }}-keys
{{- end -}}

{{- define "quarterdeck.checks" -}}
{{- if not .Values.image.registry }}{{ fail (include "quarterdeck.say.registry" .) }}{{ end -}}
{{- if not .Values.keys.existingSecret }}{{ fail (include "quarterdeck.say.keys" .) }}{{ end -}}

{{- if and .Values.database.existingSecret .Values.postgresql.enabled }}
{{- fail "database.existingSecret and postgresql.enabled are both set: an installation has one database; leave one of them out" }}
{{- end -}}
{{- if not (or .Values.database.existingSecret .Values.postgresql.enabled) }}
{{- fail (printf "database.existingSecret is not set: name a Secret whose entry %s holds postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or, for a trial, set postgresql.enabled=true" .Values.database.urlKey) }}
{{- end -}}
{{- if and .Values.postgresql.enabled (not .Values.postgresql.existingSecret) }}
{{- fail (printf "postgresql.existingSecret is not set: the trial database needs a password; kubectl create secret generic %s-postgresql -n %s --from-literal=%s=\"$(openssl rand -hex 32)\"" .Release.Name .Release.Namespace .Values.postgresql.passwordKey) }}
{{- end -}}

{{- if and .Values.artifacts.uri .Values.artifacts.persistence.enabled }}
{{- fail "artifacts.uri and artifacts.persistence.enabled are both set: artifacts lie in one place; leave one of them out" }}
{{- end -}}
{{- if not (or .Values.artifacts.uri .Values.artifacts.persistence.enabled) }}
{{- fail "artifacts.uri is not set: name an object store that every node can read, such as s3://BUCKET/PREFIX, or a volume by artifacts.persistence.enabled=true" }}
{{- end -}}
{{- if hasPrefix "file:" .Values.artifacts.uri }}
{{- fail "artifacts.uri is a folder of a pod, which no other pod can read: use artifacts.persistence.enabled=true for a volume" }}
{{- end -}}

{{- if and .Values.migration.hook .Values.postgresql.enabled }}
{{- fail "migration.hook and postgresql.enabled are both set: a hook runs before the release's own database exists; leave migration.hook false" }}
{{- end -}}
{{- range $component := list "api" "gateway" }}
{{- $scaling := (index $.Values $component).autoscaling }}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- fail (printf "%s.autoscaling.minReplicas is %v, above maxReplicas, which is %v" $component $scaling.minReplicas $scaling.maxReplicas) }}
{{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that carries the route, such as [{name: public, namespace: gateways}]" }}
{{- end -}}
{{- include "quarterdeck.checks.pools" . -}}
{{- end -}}

{{- define "quarterdeck.checks.pools" -}}
{{- if and .Values.pools (not .Values.kuberay.skipCheck) (not (.Capabilities.APIVersions.Has "ray.io/v1/RayCluster")) }}
{{- fail "pools: this cluster does not know RayCluster. Install the KubeRay operator (its Helm chart is kuberay-operator, version 1.4 or later) and try again; or leave pools empty and set workers.enabled=true for a fixed number of machines. helm template sees no cluster: pass --api-versions ray.io/v1/RayCluster, or set kuberay.skipCheck=true" }}
{{- end -}}
{{- $clusters := list -}}
{{- if .Values.workers.enabled }}{{ $clusters = append $clusters .Values.workers.cluster }}{{ end -}}
{{- range $pool := .Values.pools }}
{{- if has $pool.name $clusters }}
{{- fail (printf "pools: the cluster name %q is used twice (by workers or another pool): a Ray cluster has one" $pool.name) }}
{{- end -}}
{{- $clusters = append $clusters $pool.name }}
{{- if gt (len (printf "%s-%s" (include "quarterdeck.fullname" $) $pool.name)) 45 }}
{{- fail (printf "pools: %s-%s is longer than the 45 characters that KubeRay can name its objects by: give the release or the pool a shorter name" (include "quarterdeck.fullname" $) $pool.name) }}
{{- end -}}
{{- $groups := list -}}
{{- range $group := $pool.groups }}
{{- if has $group.name $groups }}
{{- fail (printf "pools: pool %q has two groups %q: names must differ" $pool.name $group.name) }}
{{- end -}}
{{- $groups = append $groups $group.name }}
{{- if gt (int ($group.minReplicas | default 0)) (int $group.maxReplicas) }}
{{- fail (printf "pools: group %q of pool %q has minReplicas %v above maxReplicas %v" $group.name $pool.name $group.minReplicas $group.maxReplicas) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
