"""Everything that talks to an AWS service: clients, trainings and endpoints of SageMaker, the managed route.

Plain S3 is read and written where it is needed (`registry`, `images`, `dataset`), with clients made here.
"""
