# The place of one host in Secret Manager: both secrets, and what its service account may do
# there, which is to add and to read, and never to destroy. Init finds them made.
terraform {
  required_version = ">= 1.3"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "project" {
  description = "The project that holds the secrets. Another one than the host's survives the host's."
  type        = string
}

variable "hostname" {
  description = "As the host calls itself; what a secret's name cannot have becomes \"-\"."
  type        = string
}

variable "member" {
  description = "The host's identity: \"serviceAccount:…\"."
  type        = string
}

variable "secret" {
  description = "The secret's name, as in keyguard.toml."
  type        = string
  default     = "containarium-{hostname}-secrets-master"
}

locals {
  current = replace(var.secret, "{hostname}", replace(var.hostname, "/[^A-Za-z0-9_-]/", "-"))
  secrets = toset([local.current, "${local.current}-quarantine"])
  grants = {
    for pair in setproduct(local.secrets, [
      "roles/secretmanager.secretAccessor",
      "roles/secretmanager.secretVersionAdder",
      "roles/secretmanager.viewer",
    ]) : "${pair[0]} ${pair[1]}" => { secret = pair[0], role = pair[1] }
  }
}

resource "google_secret_manager_secret" "shelf" {
  for_each = local.secrets

  project   = var.project
  secret_id = each.value
  labels    = { managed-by = "keyguard" }

  replication {
    auto {}
  }

  # The copies of a master key: no plan takes them away (law 3).
  lifecycle {
    prevent_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "host" {
  for_each = local.grants

  project   = var.project
  secret_id = google_secret_manager_secret.shelf[each.value.secret].secret_id
  role      = each.value.role
  member    = var.member
}

output "secret" {
  description = "For `secret` in keyguard.toml."
  value       = local.current
}
