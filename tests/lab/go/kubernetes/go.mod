// The root of the module; what it depends on stands in one file for each version of Kubernetes.
module tranship.io/lab/kubernetes
