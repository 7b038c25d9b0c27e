// Package dynamodb has the names that confd's DynamoDB backend is compiled against.
package dynamodb

import (
	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
)

// DynamoDB is the client.
type DynamoDB struct{}

// What the calls take and return.
type (
	AttributeValue      struct{ S *string }
	DescribeTableInput  struct{ TableName *string }
	DescribeTableOutput struct{}
	GetItemInput        struct {
		Key       map[string]*AttributeValue
		TableName *string
	}
	GetItemOutput struct{ Item map[string]*AttributeValue }
	Condition     struct {
		AttributeValueList []*AttributeValue
		ComparisonOperator *string
	}
	ScanInput struct {
		ScanFilter        map[string]*Condition
		AttributesToGet   []*string
		TableName, Select *string
	}
	ScanOutput struct{ Items []map[string]*AttributeValue }
)

// New returns a client that only answers with [aws.ErrAbsent].
func New(*session.Session, ...*aws.Config) *DynamoDB { return &DynamoDB{} }

// DescribeTable always fails.
func (*DynamoDB) DescribeTable(*DescribeTableInput) (*DescribeTableOutput, error) {
	return nil, aws.ErrAbsent
}

// GetItem always fails.
func (*DynamoDB) GetItem(*GetItemInput) (*GetItemOutput, error) { return nil, aws.ErrAbsent }

// Scan always fails.
func (*DynamoDB) Scan(*ScanInput) (*ScanOutput, error) { return nil, aws.ErrAbsent }
