"""What Mintmark promises on Kubernetes, one function a promise. The command is `identity`."""
